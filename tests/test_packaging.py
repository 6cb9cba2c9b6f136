"""The wheel, built without a network from a copy of what it is built from."""

import importlib.util
import json
import os
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
EXTRAS = {"bench", "dev", "docs", "ffcv", "huggingface", "onnx", "parquet", "test", "tune", "umap"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "hubconf.py"):
        shutil.copy(ROOT / file, tree)
    # the rest too, so that there is something to leave out
    for folder in ("sslortho", "scripts", "configs", "docs", "tests"):
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


@pytest.mark.slow
def test_holds_the_package_and_nothing_else(wheel, unpacked):
    assert wheel.name == f"sslortho-{sslortho.__version__}-py3-none-any.whl"
    information = f"sslortho-{sslortho.__version__}.dist-info"
    assert {path.name for path in unpacked.iterdir()} == {"sslortho", information}
    files = {p.relative_to(unpacked) for p in (unpacked / "sslortho").rglob("*.*") if p.is_file()}
    sources = {path.relative_to(ROOT) for path in (ROOT / "sslortho").rglob("*.py")}
    configs = {
        "sslortho" / p.relative_to(ROOT) for p in (ROOT / "configs").rglob("*") if p.is_file()
    }
    assert files == sources | configs | {Path("sslortho/py.typed")}
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


@pytest.mark.slow
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


def run_installed(unpacked, folder, *arguments):
    """`python -m sslortho` from the unpacked wheel, in a folder where no checkout is."""
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "sslortho", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_is_installed(unpacked):
    (folder,) = unpacked.glob("*.dist-info")
    text = (folder / "entry_points.txt").read_text()
    assert text.split() == ["[console_scripts]", "sslortho", "=", "sslortho.cli:main"]


@pytest.mark.slow
def test_the_command_works_without_the_checkout(unpacked, tmp_path):
    text = run_installed(unpacked, tmp_path, "pretrain", "--config", "figure7_small", "--help")
    assert "--crop_size INTEGER" in text
    assert "table3" in run_installed(unpacked, tmp_path, "reproduce", "--help")
    commands = run_installed(
        unpacked, tmp_path, "reproduce", "table3", "--data", "digits", "--only", "basic_cnn",
        "--seeds", "1", "--dry_run",
    )  # fmt: skip
    assert "sslortho supervised" in commands


@pytest.mark.slow
def test_a_run_from_the_wheel(unpacked, tmp_path):
    run_installed(
        unpacked, tmp_path, "pretrain", "--backbone", "basic_cnn", "--subset", "128",
        "--batch_size", "64", "--epochs", "1", "--out", "run", "--trackers", "none",
    )  # fmt: skip
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["git_commit"] is None
    assert summary["steps"] == 2


def load_setup():
    spec = importlib.util.spec_from_file_location("sslortho_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("repository", ["", "https://example.org/o/n"])
def test_the_page_of_a_package_index_has_no_link_into_the_checkout(repository):
    text = re.sub(r"```.*?```", "", load_setup().read_readme(repository), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert all(link.startswith("https://") for link in links)
    if not repository:
        assert "glossary" in text
        assert "docs/" not in "".join(links)
        return
    places = [link.removeprefix(repository) for link in links if link.startswith(repository)]
    assert len(places) > 30
    for place in places:  # /raw/main/PATH of a picture, /blob/main/PATH of a page
        _, kind, branch, path = place.partition("#")[0].split("/", 3)
        assert (kind, branch) == ("raw" if path.endswith(".png") else "blob", "main")
        assert (ROOT / path).exists()


@pytest.mark.slow
def test_the_wheel_has_that_page(metadata):
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().strip() == load_setup().read_readme().strip()
