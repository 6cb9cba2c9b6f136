"""Made-up data sets of any size that take little of the disk."""

import os
import shutil
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from sslortho.data.beton.file_format import (
    ALLOCATION,
    FIELD,
    HEADER,
    IMAGE_FIELD,
    INT_FIELD,
    RAW,
    VERSION,
    record_type,
)
from sslortho.data.beton.layout import FIELDS, field_descriptors

A_CLASS = 1281
"""Images of a class, about as many as ImageNet has."""

RAW_SIDE, PAGE = 192, 1 << 23
"""Pixels of a side of a beton's images, 110 kB as ImageNet's JPEGs have; bytes of its pages (FFCV's)."""

A_SHARD = 1000
"""Images of a tar shard."""


def _image(seed: int) -> bytes:
    """A JPEG of some 100 bytes of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    content = BytesIO()
    Image.fromarray(pixels).resize((112, 112)).save(content, "JPEG", quality=30)
    return content.getvalue()


def _finished(folder: Path) -> bool:
    """Whether a folder is complete; what an interrupted process left is removed."""
    if (folder / ".complete").exists():
        return True
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return False


def make_folder(place: Path, size: int) -> Path:
    """A data set `train/<class>/<image>`: each class has one file, and its images are links to it.

    Names take some 100 bytes each, and files next to nothing.
    """
    folder = place / f"folder_{size}"
    if _finished(folder):
        return folder
    for first in range(0, size, A_CLASS):
        label = first // A_CLASS
        kind = folder / "train" / f"n{label:08d}"
        kind.mkdir(parents=True)
        names = [f"{kind}/n{label:08d}_{i}.jpg" for i in range(min(A_CLASS, size - first))]
        Path(names[0]).write_bytes(_image(label))
        for name in names[1:]:
            os.link(names[0], name)  # as many as a file may have: 65,000 on ext4
    (folder / ".complete").touch()
    return folder


def make_beton(place: Path, size: int) -> Path:
    """A data set with `train.beton`: metadata as they are, and raw pixels that are holes in the file."""
    folder = place / f"beton_{size}"
    if _finished(folder):
        return folder
    image_bytes = RAW_SIDE * RAW_SIDE * 3
    metadata = np.zeros(size, record_type([IMAGE_FIELD, INT_FIELD]))
    start = HEADER.itemsize + len(FIELDS) * FIELD.itemsize + metadata.nbytes
    a_page = PAGE // image_bytes
    numbers = np.arange(size)
    first_page = -(-start // PAGE)
    places = (first_page + numbers // a_page) * PAGE + numbers % a_page * image_bytes
    images = metadata["f0"]
    images["mode"], images["width"], images["height"] = RAW, RAW_SIDE, RAW_SIDE
    images["data_ptr"] = places
    metadata["f1"] = numbers // A_CLASS
    table = np.zeros(size, ALLOCATION)
    table["sample_id"], table["ptr"], table["size"] = numbers, places, image_bytes
    end = int(places[-1]) + image_bytes
    end += -end % 8
    with (folder / "train.beton").open("wb") as file:
        file.write(np.array((VERSION, len(FIELDS), PAGE, size, end), HEADER).tobytes())
        file.write(field_descriptors().tobytes())
        file.write(metadata.tobytes())
        file.seek(end)
        file.write(table.tobytes())
    (folder / ".complete").touch()
    return folder


def make_shards(place: Path, size: int) -> list[str]:
    """Paths of tar shards, each image with its label."""
    folder = place / f"shards_{size}"
    count = -(-size // A_SHARD)
    paths = [folder / f"train-{number:05d}.tar" for number in range(count)]
    if not _finished(folder):
        content = _image(0)
        for number, path in enumerate(paths):
            with tarfile.open(path, "w") as tar:
                for i in range(number * A_SHARD, min(size, (number + 1) * A_SHARD)):
                    _add(tar, f"{i:08d}.jpg", content)
                    _add(tar, f"{i:08d}.cls", str(i // A_CLASS).encode())
        (folder / ".complete").touch()
    return [str(path) for path in paths]


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, BytesIO(content))
