"""Identity of betons: their own hash, whatever their path."""

import json
import shutil

import numpy as np
import torch

from sslortho.data import ImageArray
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
