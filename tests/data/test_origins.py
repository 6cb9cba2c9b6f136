"""The same pictures in every form that a user may have them in: the same views, bit for bit."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageColumn
from PIL import Image

from sslortho.augment import ViewRenderer, create_views
from sslortho.data import ImageSet
from sslortho.data.beton import write_beton
from sslortho.data.file_list import list_files
from sslortho.data.loading import load_training_set
from sslortho.data.objects import load_object
from sslortho.data.options import DataOptions

CPU = torch.device("cpu")
COUNT = 6


class Pictures(torch.utils.data.Dataset):
    """Items made by a function of the pixels."""

    def __init__(self, pixels, make):
        self.pixels, self.make = pixels, make

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, place):
        return self.make(self.pixels[place])


def write_files(folder, pixels):
    """PNG files in the order of the pixels."""
    folder.mkdir(parents=True)
    paths = [str(folder / f"{i}.png") for i in range(len(pixels))]
    for path, picture in zip(paths, pixels, strict=True):
        Image.fromarray(picture).save(path)
    return paths


def channels_first(pixels):
    return torch.from_numpy(pixels).movedim(-1, -3)


def write_own_beton(folder, pixels):
    path = folder / "own.beton"
    write_beton(list_files(write_files(folder / "sources", pixels)), path, mode="raw", workers=1)
    return str(path)


def write_list(folder, pixels):
    paths = write_files(folder / "listed", pixels)
    (folder / "list.txt").write_text("".join(f"listed/{i}.png\n" for i in range(len(paths))))
    return str(folder / "list.txt")


def write_array(folder, pixels):
    np.save(folder / "images.npy", pixels)
    return str(folder / "images.npy")


def in_a_table(folder, pixels):
    paths = write_files(folder / "column", pixels)
    return Dataset.from_dict({"picture": paths}, features=Features({"picture": ImageColumn()}))


def write_shards(folder, pixels):
    """Two shards, in which each image has a label and a text beside it."""
    paths = write_files(folder / "unpacked", pixels)
    for i, path in enumerate(paths):
        with tarfile.open(folder / f"x-{i * 2 // len(paths):03d}.tar", "a") as tar:
            for end, content in (
                ("txt", b"a text"),
                ("cls", b"-1"),
                ("png", Path(path).read_bytes()),
            ):
                entry = tarfile.TarInfo(f"part/{i:04d}.{end}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return str(folder / "x-{000..001}.tar")


PATHS = {
    "shards": write_shards,
    "beton": write_own_beton,
    "list file": write_list,
    "npy": write_array,
}

OBJECTS = {
    "list of files": lambda folder, x: write_files(folder / "files", x),
    "array": lambda folder, x: x,
    "array, channels first": lambda folder, x: channels_first(x).numpy(),
    "tensor": lambda folder, x: channels_first(x),
    "tensor, channels last": lambda folder, x: torch.from_numpy(x),
    "array of uint16": lambda folder, x: x.astype(np.uint16) * 257,
    "array of floats": lambda folder, x: x / 255,
    "array of integers": lambda folder, x: x.astype(np.int64),
    "list of PIL images": lambda folder, x: [Image.fromarray(p) for p in x],
    "list of arrays": lambda folder, x: list(x),
    "Dataset of PIL images": lambda folder, x: Pictures(x, Image.fromarray),
    "Dataset of tensors": lambda folder, x: Pictures(x, lambda p: channels_first(p) / 255),
    "Dataset of pairs": lambda folder, x: Pictures(x, lambda p: (p, 3)),
    "Dataset of mappings": lambda folder, x: Pictures(x, lambda p: {"image": p, "label": 3}),
    "Hugging Face": in_a_table,
}


def views(images: ImageSet, rank=0, world_size=1):
    """All views of two epochs of this rank's batches."""
    renderer = ViewRenderer(create_views("barlow_twins_small", 24), 3)
    loader = images.create_train_loader(
        renderer,
        batch_size=4,
        seed=3,
        device=CPU,
        workers=2,
        rank=rank,
        world_size=world_size,
    )
    found = []
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        found += [torch.stack(batch.views) for batch in loader]
    return found


def load(form, folder, pixels) -> ImageSet:
    if form in PATHS:
        return load_training_set(DataOptions(data=PATHS[form](folder, pixels), workers=2))
    options = DataOptions(data="given", workers=2)
    return load_object(OBJECTS[form](folder, pixels), options, "train", needs_labels=False)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module", params=[32, 104], ids=["small", "large"])
def pixels(request):
    rng = np.random.default_rng(0)
    # the largest value is there, as in nearly all photographs
    found = rng.integers(0, 256, (COUNT, request.param, request.param + 8, 3), dtype=np.uint8)
    found[0, 0, 0] = 255
    return found


@pytest.fixture(scope="module")
def expected(pixels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_files(folder / "album", pixels)
    return views(load_training_set(DataOptions(data=str(folder))))


@pytest.mark.parametrize(
    "form", [*OBJECTS, "shards", "npy", "list file", pytest.param("beton", marks=pytest.mark.slow)]
)
def test_views_are_those_of_a_folder(form, pixels, expected, tmp_path):
    images = load(form, tmp_path, pixels)
    assert len(images) == COUNT
    assert images.channels == 3
    assert images.labels.tolist() == [-1] * COUNT or "beton" in form
    np.testing.assert_array_equal(images.open(4), pixels[4])
    found = views(images)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("form", ["array", "Dataset of PIL images", "Hugging Face", "shards"])
def test_two_ranks_share_the_views_of_one(form, pixels, expected, tmp_path):
    images = load(form, tmp_path, pixels)
    parts = [views(images, rank, 2) for rank in (0, 1)]
    for whole, *shares in zip(expected, *parts, strict=True):
        assert torch.equal(torch.cat(shares, dim=1), whole)


@pytest.mark.parametrize("form", OBJECTS)
def test_the_identity_follows_the_pixels(form, pixels, tmp_path):
    if pixels.shape[1] > 96:
        pixels = pixels[:, :40, :40]
    first = load(form, tmp_path / "one", pixels) if form in OBJECTS else None
    same = load(form, tmp_path / "two", pixels.copy())
    other = pixels.copy()
    other[2] = 255 - other[2]
    changed = load(form, tmp_path / "three", other)
    assert first.table.digest == same.table.digest
    assert first.table.digest != changed.table.digest
    part = torch.tensor([4, 1])
    assert first.select(part).table.digest == same.select(part).table.digest
    assert first.select(part).table.digest != first.select(part.flip(0)).table.digest
    np.testing.assert_array_equal(first.select(part).open(1), pixels[1])


def test_one_channel_is_repeated_and_said(capsys):
    grey = np.arange(4 * 8 * 9, dtype=np.uint8).reshape(4, 8, 9)
    options = DataOptions(data="given")
    forms = (grey, grey[..., None], torch.from_numpy(grey)[:, None])
    for images in forms:
        found = load_object(images, options, "train", needs_labels=False)
        np.testing.assert_array_equal(found.open(1), np.stack([grey[1]] * 3, axis=-1))
        assert "one channel is repeated to three" in capsys.readouterr().err
