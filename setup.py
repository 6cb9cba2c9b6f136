"""The wheel's steps beyond pyproject.toml: configs/ inside the package, and a README without dead links."""

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

REPOSITORY = ""
"""Address of the repository, such as https://github.com/OWNER/NAME; empty while there is none."""

PICTURE = r"!\[([^\]]*)\]\((?![a-z]+:)([^)]+)\)"
LINK = r"(?<!!)\[([^\]]+)\]\((?![a-z]+:)([^)]+)\)"
"""Markdown of pictures and links to files of the checkout: text and path."""


def read_readme(repository: str = REPOSITORY) -> str:
    """README.md for a package index, which has no files of the checkout.

    Links and pictures lead to the repository. Without one a link becomes its text, and a picture is left
    out with the caption below it.
    """
    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    if repository:
        text = re.sub(PICTURE, rf"![\1]({repository}/raw/main/\2)", text)
        return re.sub(LINK, rf"[\1]({repository}/blob/main/\2)", text)
    text = re.sub(PICTURE + r"\n\n(\*[^*]+\*\n\n)?", "", text)
    return re.sub(LINK, r"\1", text)


class BuildWithConfigs(build_py):
    """Copies configs/ to sslortho/configs/, where an installed command finds it by name."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # a checkout has its own
            folder = Path(self.build_lib) / "sslortho" / "configs"
            shutil.rmtree(folder, ignore_errors=True)  # what an earlier build left
            shutil.copytree("configs", folder)


if __name__ == "__main__":
    setup(
        cmdclass={"build_py": BuildWithConfigs},
        long_description=read_readme(),
        long_description_content_type="text/markdown",
    )
