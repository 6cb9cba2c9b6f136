"""The wheel, built without a network from a copy of what it is built from."""

import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from helpers.torch_alone import run_with_torch_alone

import sslortho

ROOT = Path(__file__).parents[1]
BUILD = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
EXTRAS = {"dev", "ffcv", "onnx", "test", "tune", "umap"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    for file in ("pyproject.toml", "README.md", "LICENSE", "hubconf.py"):
        shutil.copy(ROOT / file, tree)
    # the rest too, so that there is something to leave out
    for folder in ("sslortho", "scripts", "configs", "assets", "tests"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-c", BUILD], cwd=tree, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (built,) = (tree / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def metadata(unpacked) -> Message:
    (folder,) = unpacked.glob("*.dist-info")
    return Parser().parsestr((folder / "METADATA").read_text(encoding="utf-8"))


def test_holds_the_package_and_nothing_else(wheel, unpacked):
    assert wheel.name == f"sslortho-{sslortho.__version__}-py3-none-any.whl"
    information = f"sslortho-{sslortho.__version__}.dist-info"
    assert {path.name for path in unpacked.iterdir()} == {"sslortho", information}
    files = {path.relative_to(unpacked) for path in (unpacked / "sslortho").rglob("*.*")}
    sources = {path.relative_to(ROOT) for path in (ROOT / "sslortho").rglob("*.py")}
    assert files == sources | {Path("sslortho/py.typed")}
    assert (unpacked / information / "licenses" / "LICENSE").read_bytes() == (
        ROOT / "LICENSE"
    ).read_bytes()


def test_metadata(metadata):
    assert metadata["Name"] == "sslortho"
    assert metadata["Version"] == sslortho.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_payload().startswith("# sslortho")
    assert set(metadata.get_all("Provides-Extra")) == EXTRAS
    required = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert "torch>=2.6" in required


def test_the_changelog_begins_with_this_version():
    headings = re.findall(
        r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert headings[0] == sslortho.__version__


def test_optimizers_work_from_it_with_torch_alone(unpacked):
    program = """
import sslortho, sslortho.optim
model = torch.nn.Linear(4, 3)
optimizer = sslortho.optim.OrthLARS(sslortho.optim.param_groups(model), lr=0.1)
model(torch.randn(8, 4)).square().sum().backward()
optimizer.step()
print(sslortho.__file__, sslortho.__version__, sep="\\n")
"""
    file, version = run_with_torch_alone(program, unpacked).splitlines()
    assert Path(file) == unpacked / "sslortho" / "__init__.py"
    assert version == sslortho.__version__
