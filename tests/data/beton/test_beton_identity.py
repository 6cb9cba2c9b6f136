"""Identity of betons: their own hash, whatever their path."""

import json
import shutil

import numpy as np
import torch

from sslortho.data import ImageArray
from sslortho.data.beton import images as beton_images
from sslortho.data.beton.file_format import read_beton
from sslortho.data.beton.images import open_beton
from sslortho.data.beton.writer import write_beton
from sslortho.data.datasets import load_split


def images(seed: int = 0) -> ImageArray:
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 3, 16, 16), dtype=np.uint8)
    return ImageArray(torch.from_numpy(pixels), torch.arange(6) % 2, ("a", "b"))


def digest(folder) -> str:
    data = load_split("beton", folder, "train")
    assert data is not None
    return data.table.digest


def write(folder, data, **settings):
    folder.mkdir()
    write_beton(data, folder / "train.beton", workers=1, **settings)
    return folder


def test_a_copy_and_a_second_writing_are_the_same(tmp_path):
    first = write(tmp_path / "first", images())
    copy = shutil.copytree(first, tmp_path / "copy")
    again = write(tmp_path / "again", images())
    assert digest(first) == digest(copy) == digest(again)


def test_other_pixels_and_other_labels_are_told(tmp_path):
    first = write(tmp_path / "first", images())
    pixels = write(tmp_path / "pixels", images(1))
    data = images()
    flipped = ImageArray(data.images, data.labels.flip(0), data.classes)
    labels = write(tmp_path / "labels", flipped)
    assert len({digest(folder) for folder in (first, pixels, labels)}) == 3


def test_parts_of_a_beton_are_told_apart(tmp_path):
    data = load_split("beton", write(tmp_path / "first", images()), "train")
    assert data is not None
    first, last = (data.select(torch.tensor(i)) for i in ([0, 1], [1, 2]))
    assert len({data.table.digest, first.table.digest, last.table.digest}) == 3


def test_without_a_manifest_sizes_and_labels_tell(tmp_path):
    folder = write(tmp_path / "first", images())
    manifest = folder / "train.beton.json"
    content = json.loads(manifest.read_text())
    assert content["source_sha256"]
    manifest.unlink()
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert digest(folder) == digest(copy)
    data = images()
    labels = ImageArray(data.images, data.labels.flip(0), data.classes)
    other = write(tmp_path / "other", labels)
    (other / "train.beton.json").unlink()
    assert digest(other) != digest(folder)


def test_the_metadata_are_not_read_again_each_time_that_the_first_size_is_asked_for(
    tmp_path, monkeypatch
):
    """A start asks for it half a dozen times, and ImageNet's metadata are 60 MB."""
    data = ImageArray(torch.zeros(3, 3, 20, 30, dtype=torch.uint8), torch.zeros(3).long(), ("a",))
    write_beton(data, tmp_path / "train.beton", mode="raw")
    images = open_beton(tmp_path / "train.beton")
    read = []
    monkeypatch.setattr(
        beton_images, "read_beton", lambda path: read.append(path) or read_beton(path)
    )
    assert [images.first_size for _ in range(4)] == [(20, 30)] * 4
    assert images.holds_small_images
    assert len(read) == 1
    assert images.select(torch.tensor([2])).first_size == (20, 30)
