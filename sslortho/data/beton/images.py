"""Images of a .beton as an image set."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslortho.data.batches import EpochOrder, PageOrder
from sslortho.data.beton.file_format import RAW, BetonFile, read_beton
from sslortho.data.beton.manifest import read_classes, read_names, read_source_hash
from sslortho.data.beton.source import BetonSource
from sslortho.data.beton.stored_jpeg import BrokenSampleError, check_stored, decode_stored
from sslortho.data.file_ends import JPEG_END, TAIL
from sslortho.data.identity import ImageTable, hash_arrays
from sslortho.data.image_sets import Cache, ImageSet, Split
from sslortho.data.split_folders import find_test_beton
from sslortho.data.view_loader import Indices, Source

if TYPE_CHECKING:
    from typing_extensions import Self

MOST_CLASSES = 1 << 20
"""Most classes of a beton without a manifest. A classifier has an output for each; ImageNet-22k has
21,841."""


@dataclass(frozen=True, eq=False)
class BetonImages(ImageSet):
    """Samples of a .beton file; labels int64 (n,) or -1."""

    path: Path
    places: NDArray[np.int64]
    """(n,): places of the samples in the file."""
    pages: NDArray[np.int64]
    """(n,): page of the file that holds a sample's bytes."""
    labels: Tensor
    classes: tuple[str, ...]
    image_field: str = "image"
    """Name of the field that holds the images."""

    def __len__(self) -> int:
        return len(self.places)

    def select(self, indices: Tensor) -> "Self":
        chosen = indices.numpy()
        return replace(
            self,
            places=self.places[chosen],
            pages=self.pages[chosen],
            labels=self.labels[indices],
        )

    @cached_property
    def _file(self) -> BetonFile:
        return read_beton(self.path)

    def _read(self, index: int, last: int | None = None) -> bytes:
        """Stored bytes of an image, or so many of them at the end."""
        place = int(self.places[index])
        start, size = int(self._file.images["data_ptr"][place]), int(self._file.sizes[place])
        skipped = 0 if last is None else max(0, size - last)
        with self.path.open("rb", buffering=0) as file:
            file.seek(start + skipped)
            return file.read(size - skipped)

    def open(self, index: int) -> NDArray[np.uint8]:
        """One image; a loader reads by `open_source`."""
        place = int(self.places[index])
        record, content = self._file.images[place], self._read(index)
        height, width = int(record["height"]), int(record["width"])
        try:
            if record["mode"] == RAW:
                pixels = np.frombuffer(content, np.uint8)[: height * width * 3]
                return pixels.reshape(height, width, 3).copy()  # writable
            return decode_stored(content, height, width)
        except ValueError as error:
            raise BrokenSampleError(self.path, place, str(error)) from error

    def check(self, index: int, thorough: bool = False) -> tuple[int, int]:
        """See `ImageSet.check`. Raw pixels need none: `read_beton` has made sure that there are enough."""
        place = int(self.places[index])
        record = self._file.images[place]
        width, height = int(record["width"]), int(record["height"])
        if record["mode"] != RAW and (thorough or JPEG_END not in self._read(index, TAIL)):
            try:
                check_stored(self._read(index), height, width)
            except ValueError as error:
                raise BrokenSampleError(self.path, place, str(error)) from error
        return width, height

    def name_of(self, index: int) -> str:
        """Name of the file, and the place in it."""
        return f"{self.path.name}:{self.places[index]}"

    @cached_property
    def table(self) -> ImageTable:
        """Bytes and labels of the samples, and the hash of the source that the manifest holds.

        A beton without a manifest is told by its metadata: sizes of images in pixels and bytes.
        """
        file = read_beton(self.path)
        sides = [file.images[side][self.places] for side in ("mode", "height", "width")]
        content = read_source_hash(self.path) or hash_arrays(*sides)
        sizes = file.sizes[self.places].astype(np.int64)
        return ImageTable(self.labels.numpy(), self.classes, sizes=sizes, content=content)

    def sizes(self, indices: Indices) -> tuple[Indices, Indices]:
        """From the file's metadata. Raises ValueError as `read_beton`."""
        images = read_beton(self.path).images[self.places[indices]]  # not kept: 40 MB for ImageNet
        return images["height"].astype(np.int64), images["width"].astype(np.int64)

    def file_names(self) -> list[str]:
        names = read_names(self.path, len(read_beton(self.path)))
        return [names[place] for place in self.places]

    def open_source(self, cache: Cache) -> Source:
        return BetonSource(self, cache)

    def epoch_order(
        self, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, cache: Cache = "os"
    ) -> EpochOrder:
        """A `PageOrder` for cache "process", which reads whole pages."""
        if cache == "process":
            return PageOrder(len(self), batch_size, seed, rank, world_size, pages=self.pages)
        return super().epoch_order(batch_size, seed, rank, world_size, cache)


def _check_labels(path: Path, labels: NDArray[Any], classes: tuple[str, ...]) -> None:
    most = len(classes) or MOST_CLASSES
    i = int(labels.argmax())
    if labels[i] >= most:
        raise ValueError(
            f"{path}: image {i} has the label {labels[i]}, and there are at most {most} classes; write "
            "it again with sslortho write_beton"
        )


def _check_same_classes(test: Path, classes: tuple[str, ...], train: Path) -> None:
    ours = read_classes(train, len(read_beton(train)))
    if classes and ours and classes != ours:
        different = sorted(set(classes).symmetric_difference(ours))
        raise ValueError(
            f"{test} and {train} do not have the same classes ({', '.join(different[:3])} in one "
            "alone); labels would not match"
        )


def load_beton(data_dir: Path, split: Split) -> BetonImages | None:
    """Images of `data_dir/train.beton`, or for split "test" of `val.beton` or `test.beton`.

    None if there is no test file. Raises ValueError, naming the file, if the training file is missing, a
    file or its manifest is damaged, or training and test classes differ.
    """
    train = data_dir / "train.beton"
    path = train if split == "train" else find_test_beton(data_dir, ("val", "test"))
    if path is None:
        return None
    if not path.is_file():
        raise ValueError(
            f"data_dir={str(data_dir)!r} holds no train.beton; write one with "
            f"sslortho write_beton --split train --out {train} ..."
        )
    images = open_beton(path)
    if split == "test" and train.is_file():
        _check_same_classes(path, images.classes, train)
    return images


def open_beton(path: Path) -> BetonImages:
    """Images of a .beton. Raises ValueError, naming the file, if it or its manifest is damaged."""
    file = read_beton(path)
    classes = read_classes(path, len(file))
    _check_labels(path, file.labels, classes)
    return BetonImages(
        path=path,
        places=np.arange(len(file)),
        pages=(file.images["data_ptr"] // file.page_size).astype(np.int64),
        labels=torch.from_numpy(file.labels.astype(np.int64)),
        classes=classes,
        image_field=file.image_field,
    )
