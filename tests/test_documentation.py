"""The documentation: links lead somewhere, pages are in the site, and Python blocks run, at small scale."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
import yaml
from PIL import Image
from torch import nn

import sslortho

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").rglob("*.md"))
FILES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "llms.txt", *DOCS)
NAMES = [str(path.relative_to(ROOT)) for path in FILES]

BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?```python\n(.*?)```", re.DOTALL)
"""A block of Python, perhaps with the reason why it is not run."""

SMALL = {
    "threads": 1,
    "batch_size": 8,
    "subset": 16,
    "epochs": 1,
    "warmup_epochs": 0,
    "trackers": "none",
    "crop_size": 32,
    "mixed_precision": "no",
    "announce": False,
}
"""Options that make a training small."""


def read_links(text):
    """Targets of links and pictures, outside of blocks of code."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def read_anchors(text):
    """Anchors of headings, as GitHub and MkDocs make them."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_a_file_and_a_heading(name):
    page = ROOT / name
    for link in read_links(page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{name}: {link}"
        assert not anchor or anchor in read_anchors(target.read_text()), f"{name}: {link}"


def test_every_page_is_in_the_site_and_in_the_index_for_language_models():
    text = (ROOT / "mkdocs.yml").read_text()
    pages = {str(path.relative_to(ROOT / "docs")) for path in DOCS}
    listed = re.findall(
        r"(\S+\.md)$", str(yaml.safe_dump(yaml.safe_load(text)["nav"])), re.MULTILINE
    )
    assert set(listed) == pages
    index = (ROOT / "llms.txt").read_text()
    missing = [p for p in pages if f"docs/{p}" not in index and not p.startswith(("api/", "index"))]
    assert missing == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


class MyNetwork(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture
def names(tmp_path, monkeypatch):
    """Folders, files and names that the blocks speak of; trainings are made small."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i in range(24):
        name = f"photos/{'ab'[i]}.jpg" if i < 2 else f"photos/{i}.jpg"
        Image.effect_noise((48, 40), 20 + 5 * i).convert("RGB").save(name)
        if i < 2:
            Image.open(name).save(Path(name).name)
    torch.save(torchvision.models.resnet50().state_dict(), "resnet50.pth")
    for name in ("pretrain", "linear_eval"):
        monkeypatch.setattr(sslortho, name, partial(train_small, getattr(sslortho, name)))
    sslortho.pretrain("photos", "basic_cnn", out="runs/x")
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
    images = torch.randn(4, 3, 8, 8)
    model(images).sum().backward()
    return {
        "model": model,
        "images": images,
        "torch": torch,
        "sslortho": sslortho,
        "MyNetwork": MyNetwork,
        "MyProjector": lambda dim: nn.Linear(dim, 16),
    }


def train_small(function, *args, **options):
    """A training with fewer steps than were asked for."""
    return function(*args, **{**options, **SMALL})


PAGES_WITH_PYTHON = [
    name
    for name, path in zip(NAMES, FILES, strict=True)
    if "```python" in path.read_text() and path.parent.name != "notebooks"  # test_notebooks.py
]


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES_WITH_PYTHON)
def test_python_blocks_run(name, names, capsys):
    found = BLOCK.findall((ROOT / name).read_text())
    assert found
    for reason, block in found:
        if not reason:
            exec(compile(block, name, "exec"), names)
