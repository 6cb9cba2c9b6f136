"""Image files by their paths: the image set of folders and lists of files."""

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sslortho.data.decoding import check_image, naming_broken, read_pixels, read_size
from sslortho.data.identity import ImageTable, read_ends, read_sizes
from sslortho.data.image_sets import ImageSet
from sslortho.data.view_loader import Indices

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, eq=False)
class ImageFiles(ImageSet):
    """Image files of any size, by their paths; labels int64 (n,) or -1."""

    paths: tuple[str, ...]
    labels: Tensor
    classes: tuple[str, ...]
    root: str = ""
    """Folder of the split, which the files' names are relative to in `table`."""
    upright: bool = False
    """Turn images as their EXIF data say."""

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, indices: Tensor) -> "Self":
        paths = tuple(self.paths[i] for i in indices.tolist())
        return replace(self, paths=paths, labels=self.labels[indices])

    @cached_property
    def table(self) -> ImageTable:
        start = f"{self.root}{os.sep}" if self.root else ""
        names = [path.removeprefix(start) for path in self.paths]
        sizes, ends = read_sizes(self.paths), read_ends(self.paths)
        return ImageTable(self.labels.numpy(), self.classes, names, sizes, ends)

    def open(self, index: int) -> NDArray[np.uint8]:
        return read_pixels(self.paths[index], self.upright)

    def sizes(self, indices: Indices) -> tuple[Indices, Indices]:
        """From the files' headers. Raises ValueError, naming the file, if it is not an image."""
        found = [read_size(self.paths[i], self.upright) for i in indices]
        widths, heights = np.array(found, np.int64).reshape(-1, 2).T
        return heights, widths

    def file_of(self, index: int) -> str:
        return self.paths[index]

    def content_of(self, index: int) -> bytes:
        with naming_broken(self.paths[index]):
            return Path(self.paths[index]).read_bytes()

    def check(self, index: int, thorough: bool = False) -> tuple[int, int]:
        if thorough:
            height, width, _ = self.open(index).shape
            return width, height
        return check_image(self.paths[index], self.upright)

    @cached_property
    def _parent(self) -> str:
        return f"{Path(self.root).parent}{os.sep}" if self.root else ""

    def name_of(self, index: int) -> str:
        return self.paths[index].removeprefix(self._parent)

    def file_names(self) -> list[str]:
        return [Path(path).name for path in self.paths]
