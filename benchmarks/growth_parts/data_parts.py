"""Parts of image sets: listing, checking, identity, resuming, and the order of an epoch."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from sslortho.data import ImageSet
from sslortho.data.beton.images import load_beton
from sslortho.data.broken_images import handle_broken
from sslortho.data.image_folder import scan_folder
from sslortho.data.image_sets import Cache, ImageArray
from sslortho.data.tar_shards import load_shards
from sslortho.runs.inputs import Inputs, read_tables, write_tables

from .made_up import A_CLASS, make_beton, make_folder, make_shards
from .part import IMAGENET, Part, Work

BATCH = 256
"""Images of a step."""

Load = Callable[[], ImageSet]
Prepare = Callable[[int, Path], Work]
Find = Callable[[int, Path], Load]
"""From a size and the folder for made-up data, which are made here, to a function that lists them."""

SIDE = 32
"""Pixels of a side of images in memory."""


def _found(images: ImageSet | None) -> ImageSet:
    assert images is not None
    return images


def _folder(size: int, place: Path) -> Load:
    folder = make_folder(place, size)
    return lambda: _found(scan_folder(folder, "train"))


def _beton(size: int, place: Path) -> Load:
    folder = make_beton(place, size)
    return lambda: _found(load_beton(folder, "train"))


def _shards(size: int, place: Path) -> Load:
    paths = make_shards(place, size)
    os.environ["XDG_CACHE_HOME"] = str(place / "cache")
    return lambda: load_shards(paths)


def _unread_shards(size: int, place: Path) -> Work:
    paths = make_shards(place, size)

    def work() -> None:
        with tempfile.TemporaryDirectory(dir=place) as cache:
            os.environ["XDG_CACHE_HOME"] = cache
            load_shards(paths)

    return work


def _array(size: int, place: Path) -> Load:
    images = torch.zeros(size, 3, SIDE, SIDE, dtype=torch.uint8)
    images[:] = torch.arange(size).remainder(251).to(torch.uint8).view(-1, 1, 1, 1)
    labels = torch.arange(size) // A_CLASS
    return lambda: ImageArray(images, labels, ())


def _list(find: Find) -> Prepare:
    def prepare(size: int, place: Path) -> Work:
        load = find(size, place)
        load()  # into the caches of the system, and of shards that are indexed
        return load

    return prepare


def _check(find: Find) -> Prepare:
    def prepare(size: int, place: Path) -> Work:
        images = find(size, place)()
        return lambda: handle_broken(images, "train", None)

    return prepare


def _start(find: Find) -> Prepare:
    """Work of every start with a listed set: its identity, hashed, and the size of its images."""

    def prepare(size: int, place: Path) -> Work:
        load = find(size, place)

        def work() -> None:
            images = load()
            Inputs({"training": images.table}).state()
            _ = images.first_size, images.holds_small_images

        load()
        return work

    return prepare


def _resume(find: Find) -> Prepare:
    """Work of a resume beyond a start where the images have changed: the table is read and compared."""

    def prepare(size: int, place: Path) -> Work:
        images = find(size, place)()
        inputs = Inputs({"training": images.table})
        path = place / "images.npz"
        write_tables(path, inputs)
        assert len(read_tables(path)) == 1
        labels = images.table.labels.copy()
        labels[0] += 1
        changed = Inputs({"training": replace(images.table, labels=labels)})
        return lambda: changed.find_changes(inputs.state(), path)

    return prepare


def _write(find: Find) -> Prepare:
    def prepare(size: int, place: Path) -> Work:
        inputs = Inputs({"training": find(size, place)().table})
        return lambda: write_tables(place / "images.npz", inputs)

    return prepare


def _order(find: Find, cache: Cache = "os", from_the_middle: bool = False) -> Prepare:
    def prepare(size: int, place: Path) -> Work:
        order = find(size, place)().epoch_order(BATCH, 0, cache=cache)
        start = len(order) // 2 if from_the_middle else 0
        return lambda: [None for _ in order.steps(1, start)]

    return prepare


SIZES = (1_000, 10_000, 100_000, IMAGENET)
SHORT = (1_000, 10_000, 100_000)
"""Sizes of what would take too much of the disk or of the memory beyond."""
QUICK = (1_000, 4_000, 16_000)


def _part(what: str, prepare: Prepare, sizes: tuple[int, ...] = SIZES) -> Part:
    return Part(what, "images", prepare, sizes, QUICK, IMAGENET)


DATA_PARTS = {
    "folder_list": _part("list class folders", _list(_folder)),
    "folder_check": _part(
        "check the files of a folder; of more than 100,000 files only 2,000", _check(_folder)
    ),
    "folder_start": _part(
        "list a folder, compute its identity from names, sizes and ends of the files, find the size of "
        "the images",
        _start(_folder),
    ),
    "folder_write": _part("write images.npz for a folder", _write(_folder)),
    "folder_resume": _part(
        "read images.npz, find what has changed in a folder", _resume(_folder)
    ),
    "folder_order": _part(f"compute the order of an epoch, batches of {BATCH}", _order(_folder)),
    "folder_order_resumed": _part(
        "compute the order of the second half of an epoch, as a resume does",
        _order(_folder, "os", True),
    ),
    "beton_list": _part("read and check a beton's metadata", _list(_beton)),
    "beton_check": _part("check a beton's images, stored as raw pixels", _check(_beton)),
    "beton_start": _part(
        "read a beton's metadata, compute its identity, find the size of the images", _start(_beton)
    ),
    "beton_order_pages": _part(
        "compute the order of an epoch by pages (--cache process)", _order(_beton, "process")
    ),
    "shards_list": _part(
        "index tar shards of 1,000 images for the first time", _unread_shards, SHORT
    ),
    "shards_list_again": _part("list tar shards that were indexed before", _list(_shards), SHORT),
    "shards_start": _part(
        "list indexed shards, compute their identity, find the size of the images",
        _start(_shards),
        SHORT,
    ),
    "array_start": _part(
        f"compute the identity of {SIDE} x {SIDE} images in memory from their pixels",
        _start(_array),
        SHORT,
    ),
}  # fmt: skip
"""Parts of image sets by name. Data in memory and the order of an epoch have the same code as a folder's
where a name is missing."""
