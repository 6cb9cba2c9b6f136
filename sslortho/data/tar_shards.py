"""Images in tar shards of WebDataset's layout, on a disk or at an address, each read by its place.

Order, shares of ranks and resume are those of any image set: shards are not streams here.
"""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import IO, TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslortho.data.decoding import check_content, decode_pixels, naming_broken, size_of
from sslortho.data.identity import END, ENDS_READ, ImageTable, hash_array
from sslortho.data.image_sets import ImageSet
from sslortho.data.labels import MOST_CLASSES
from sslortho.data.names import to_line
from sslortho.data.shard_files import ShardPart, Shards
from sslortho.data.tar_index import ShardIndex, read_index
from sslortho.data.view_loader import Indices

if TYPE_CHECKING:
    from typing_extensions import Self

AT_ONCE = 16
"""Shards that are indexed, and headers that are read, at a time."""


@dataclass(frozen=True, eq=False)
class ShardImages(ImageSet):
    """Image files in tar shards; labels int64 (n,) or -1."""

    shards: Shards
    shard: NDArray[np.int64]
    """(n,): shard that an image lies in."""
    offsets: NDArray[np.int64]
    """(n,): its first byte."""
    lengths: NDArray[np.int64]
    """(n,): its bytes."""
    names: tuple[str, ...]
    """Shard and name of each image, such as `x-000.tar/0001.jpg`."""
    labels: Tensor
    upright: bool = True
    """Turn images as their EXIF data say."""
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def select(self, indices: Tensor) -> "Self":
        chosen = indices.numpy()
        return replace(
            self,
            shard=self.shard[chosen],
            offsets=self.offsets[chosen],
            lengths=self.lengths[chosen],
            names=tuple(self.names[int(i)] for i in chosen),
            labels=self.labels[indices],
        )

    @property
    def tells_sizes(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """See `ImageSet.tells_sizes`."""
        return not self.shards.is_remote

    def _read(self, index: int, last: int | None = None) -> bytes:
        """Bytes of an image, or so many of them at its end."""
        length = int(self.lengths[index])
        skipped = 0 if last is None else max(0, length - last)
        offset = int(self.offsets[index]) + skipped
        return self.shards.read(int(self.shard[index]), offset, length - skipped)

    def _file(self, index: int) -> IO[bytes]:
        place = int(self.shard[index]), int(self.offsets[index]), int(self.lengths[index])
        return io.BufferedReader(ShardPart(self.shards, *place))

    def content_of(self, index: int) -> bytes:
        with naming_broken(self.names[index]):
            return self._read(index)

    def open(self, index: int) -> NDArray[np.uint8]:
        return decode_pixels(self._read(index), self.names[index], self.upright)

    def sizes(self, indices: Indices) -> tuple[Indices, Indices]:
        """From the images' headers. Raises ValueError, naming the image, if it is none."""
        found = [size_of(self._file(i), self.names[i], self.upright) for i in indices]
        widths, heights = np.array(found, np.int64).reshape(-1, 2).T
        return heights, widths

    def check(self, index: int, thorough: bool = False) -> tuple[int, int]:
        """See `ImageSet.check`. (0, 0) for an image at an address unless `thorough`: it would be fetched."""
        if thorough:
            height, width, _ = self.open(index).shape
            return width, height
        if self.shards.is_remote:
            return 0, 0
        return check_content(self._file(index), self.names[index], self.upright)

    def name_of(self, index: int) -> str:
        return self.names[index]

    def file_names(self) -> list[str]:
        return [name.rpartition("/")[2] for name in self.names]

    @cached_property
    def table(self) -> ImageTable:
        """Names, sizes in bytes and labels, and the ends of up to ENDS_READ images."""
        ends = np.zeros(len(self), np.int64)
        chosen = np.unique(np.linspace(0, len(self) - 1, ENDS_READ).astype(np.int64))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            ends[chosen] = list(pool.map(self._hash_end, chosen.tolist()))
        return ImageTable(self.labels.numpy(), self.classes, self.names, self.lengths, ends)

    def _hash_end(self, index: int) -> int:
        return hash_array(np.frombuffer(self._read(index, END), np.uint8))


def load_shards(
    places: Sequence[str],
    upright: bool = True,
    suffix: str | None = None,
    labelled: bool = True,
) -> ShardImages:
    """Images of shards, which are indexed once.

    Args:
        places: paths, or addresses.
        upright: turn images as their EXIF data say.
        suffix: see `read_index`, also for what raises.
        labelled: take their labels; without them all are -1.

    Raises ValueError for shards that are missing or hold no images, and for a label that is no number of a
    class.
    """
    shards = Shards(places)

    def index(number: int) -> ShardIndex:
        shown = places[number]
        try:
            version = shards.version(number)
            return read_index(shown, version, lambda: shards.open(number), suffix)
        except OSError as error:
            raise ValueError(f"shard {shown!r} cannot be read ({error})") from error

    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(index, range(len(places))))
    # shards of one name differ by their folder
    shared = os.path.commonprefix(list(places)).rpartition("/")[0]  # noqa: RUF071, ends at a folder
    names = [
        f"{place.removeprefix(shared).lstrip('/')}/{name}"
        for place, part in zip(places, found, strict=True)
        for name in part.names
    ]
    if not names:
        raise ValueError(f"{len(places)} shards hold no images, {places[0]!r} first")
    counts = [len(part.names) for part in found]
    labels = np.concatenate([part.labels for part in found])
    if not labelled:
        labels = np.full_like(labels, -1)
    if labels.max() >= MOST_CLASSES:
        place = int(labels.argmax())
        raise ValueError(
            f"label {labels[place]} of {to_line(names[place])} is no number of a class, which are below "
            f"{MOST_CLASSES:,}; number the classes from 0, or take no labels by --labels none"
        )
    return ShardImages(
        shards=shards,
        shard=np.repeat(np.arange(len(places)), counts),
        offsets=np.concatenate([part.offsets for part in found]),
        lengths=np.concatenate([part.sizes for part in found]),
        names=tuple(names),
        labels=torch.from_numpy(labels),
        upright=upright,
    )
