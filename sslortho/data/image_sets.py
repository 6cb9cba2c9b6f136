"""The forms that a data set takes: small images in memory, paths of files, or a beton."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Split = Literal["train", "test"]


@dataclass(frozen=True, eq=False)
class ImageArray:
    """Images of one size in memory: uint8 (n, 3, height, width), labels int64 (n,) or -1."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: Tensor) -> "ImageArray":
        """The data set of these samples alone."""
        return ImageArray(self.images[indices], self.labels[indices], self.classes)


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Paths of image files of any size, labels int64 (n,) or -1."""

    paths: tuple[str, ...]
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, indices: Tensor) -> "ImageFiles":
        """The data set of these samples alone."""
        paths = tuple(self.paths[i] for i in indices.tolist())
        return ImageFiles(paths, self.labels[indices], self.classes)


@dataclass(frozen=True, eq=False)
class BetonImages:
    """Samples of a .beton file, labels int64 (n,) or -1."""

    path: Path
    places: NDArray[np.int64]
    """(n,): which samples of the file."""
    pages: NDArray[np.int64]
    """(n,): the page of the file that a sample's bytes lie in."""
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.places)

    def select(self, indices: Tensor) -> "BetonImages":
        """The data set of these samples alone."""
        chosen = indices.numpy()
        labels = self.labels[indices]
        return BetonImages(self.path, self.places[chosen], self.pages[chosen], labels, self.classes)


ImageSet = ImageArray | ImageFiles | BetonImages
