"""The two forms that a data set takes: a stack of small images in memory, or paths of files."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Split = Literal["train", "test"]


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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


ImageSet = ImageArray | ImageFiles
