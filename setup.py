"""The wheel's one step beyond pyproject.toml: configs/ travels inside the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies configs/ to sslortho/configs/, where an installed command finds it by name."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # a checkout has its own
            folder = Path(self.build_lib) / "sslortho" / "configs"
            shutil.copytree("configs", folder, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithConfigs})
