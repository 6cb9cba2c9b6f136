"""Image sets: labelled images of any origin, which know themselves how they are read and loaded.

A new origin of images is one subclass of `ImageSet`: `open`, `sizes`, `select`, `table` and `__len__`. Its
images are then decoded one by one; `open_source` is for an origin that is read faster otherwise.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslortho.augment import EvaluationRenderer, ViewRenderer
from sslortho.augment.renderer import Renderer
from sslortho.data.batches import EpochOrder, EvaluationLoader
from sslortho.data.identity import ImageTable, hash_arrays
from sslortho.data.pixel_source import PixelSource
from sslortho.data.tensor_loader import TensorEvaluationLoader, TensorLoader
from sslortho.data.view_loader import EvaluationViewLoader, Indices, Source, ViewLoader

if TYPE_CHECKING:
    from typing_extensions import Self

Split = Literal["train", "test"]

Cache = Literal["os", "process"]
"""How a beton is read; see `beton.source.BetonSource`. Other image sets ignore it."""

SMALL_SIDE = 96
"""Images with sides of up to this many pixels are small: a folder of them, all of one size, is read
into memory, and their evaluation view is the whole image."""


class ImageSet(ABC):
    """Labelled images, uint8, in a fixed order."""

    channels: ClassVar[int] = 3
    """Channels of the images that `open` gives. Views are made of three: one is repeated to them by the
    set itself."""
    in_memory: ClassVar[bool] = False
    """Whether the images are all of one size and lie in memory, decoded."""
    labels: Tensor
    """int64 (n,); -1 for an image without a label."""
    classes: tuple[str, ...]
    """Names of the classes, by label; empty if they have none."""
    upright: bool = False
    """Whether images are turned as their EXIF data say."""
    tells_sizes: bool = True
    """Whether `sizes` decodes and fetches no images."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def select(self, indices: Tensor) -> "Self":
        """Image set of these samples alone, in this order; indices int64 (m,)."""

    @abstractmethod
    def open(self, index: int) -> NDArray[np.uint8]:
        """Pixels of one image, (height, width, channels), contiguous.

        Several threads may call it at a time. Raises ValueError, naming the image, if it cannot be
        decoded.
        """

    @abstractmethod
    def sizes(self, indices: Indices) -> tuple[Indices, Indices]:
        """Heights and widths in pixels of these samples, both int64 (m,)."""

    @property
    def table(self) -> ImageTable:
        """Names, sizes and labels of the images: their identity, which a run compares when it resumes."""
        names = [self.file_of(i) for i in range(len(self))]
        known = [name for name in names if name is not None]
        return ImageTable(self.labels.numpy(), self.classes, known or None)

    @cached_property
    def first_size(self) -> tuple[int, int]:
        """Height and width of the first image, in pixels."""
        heights, widths = self.sizes(np.zeros(1, np.int64))
        return int(heights[0]), int(widths[0])

    @property
    def holds_small_images(self) -> bool:
        """Whether images are as small as CIFAR's, wherever they lie.

        Then their evaluation view is the whole image. The first image decides for all.
        """
        return max(self.first_size) <= SMALL_SIDE

    def file_of(self, index: int) -> str | None:
        """Path of the image file of one sample; None if it has no file of its own."""
        return None

    def content_of(self, index: int) -> bytes | None:
        """Bytes of the image file of one sample, as they are; None where it lies in no file.

        Raises BrokenImageError, naming the image, if they cannot be read.
        """
        return None

    def file_names(self) -> list[str] | None:
        """Names, without folders, of the files that the images are or were; None if there are none.

        Raises ValueError if they should be known and are not.
        """
        return None

    def check(self, index: int, thorough: bool = False) -> tuple[int, int]:
        """Check that an image can be decoded; (width, height) in pixels.

        Cheap, so that some faults are not found; thorough: the image is decoded. Several threads may
        call it at a time. Raises BrokenImageError, naming the image.
        """
        heights, widths = self.sizes(np.array([index]))
        return int(widths[0]), int(heights[0])

    def name_of(self, index: int) -> str:
        """Name of one sample in lists: of a file its path, relative to the folder of the data."""
        return str(index)

    @cached_property
    def _sources(self) -> dict[Cache, Source]:
        return {}

    def open_source(self, cache: Cache) -> Source:
        """A new source of the images for a loader; see `source`."""
        return PixelSource(self)

    def source(self, cache: Cache = "os") -> Source:
        """Source of the images for a loader, kept: training and evaluation read the same set."""
        if cache not in self._sources:
            self._sources[cache] = self.open_source(cache)
        return self._sources[cache]

    def epoch_order(
        self, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, cache: Cache = "os"
    ) -> EpochOrder:
        """Order of the samples in training, for images that are read with this cache.

        Args:
            batch_size, seed, rank, world_size: see `EpochOrder`, also for what raises.
            cache: see `Cache`.
        """
        return EpochOrder(len(self), batch_size, seed, rank, world_size)

    def create_train_loader(
        self,
        renderer: ViewRenderer,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        workers: int,
        rank: int = 0,
        world_size: int = 1,
        cache: Cache = "os",
    ) -> "ViewLoader | TensorLoader":
        """Random views of the images: this rank's share of each epoch's batches.

        Args:
            renderer: makes the views.
            batch_size, seed, rank, world_size: see `EpochOrder`.
            device: where views are delivered.
            workers: threads that decode and render, 0 for none; images in memory need none.
            cache: see `Cache`.

        Raises ValueError as `EpochOrder`, and for images in memory that are too small for a view.
        """
        order = self.epoch_order(batch_size, seed, rank, world_size, cache)
        return ViewLoader(self.source(cache), renderer, order, device, workers)

    def create_evaluation_loader(
        self,
        renderer: Renderer,
        *,
        batch_size: int,
        device: torch.device,
        workers: int,
        rank: int = 0,
        world_size: int = 1,
        cache: Cache = "os",
    ) -> EvaluationLoader:
        """The evaluation view of each image once over all ranks, in order: this rank's batches.

        With a renderer of random views, those of epoch 0.

        Args: as for `create_train_loader`; batch_size is that of one rank.
        """
        source = self.source(cache)
        return EvaluationViewLoader(source, renderer, batch_size, device, workers, rank, world_size)


@dataclass(frozen=True, eq=False)
class ImageArray(ImageSet):
    """Images of one size in memory: uint8 (n, 3, height, width), labels int64 (n,) or -1."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    origin: ImageTable | None = None
    """Table of the files that the images were read from; None: the pixels themselves tell."""

    in_memory: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: Tensor) -> "Self":
        origin = None if self.origin is None else self.origin.select(indices.numpy())
        return replace(
            self, images=self.images[indices], labels=self.labels[indices], origin=origin
        )

    @cached_property
    def table(self) -> ImageTable:
        if self.origin is not None:
            return self.origin
        content = hash_arrays(self.images.numpy())
        return ImageTable(self.labels.numpy(), self.classes, content=content)

    def open(self, index: int) -> NDArray[np.uint8]:
        return np.ascontiguousarray(self.images[index].permute(1, 2, 0).numpy())

    def sizes(self, indices: Indices) -> tuple[Indices, Indices]:
        height, width = (np.full(len(indices), s, np.int64) for s in self.images.shape[2:])
        return height, width

    def create_train_loader(
        self,
        renderer: ViewRenderer,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        workers: int,
        rank: int = 0,
        world_size: int = 1,
        cache: Cache = "os",
    ) -> TensorLoader:
        order = self.epoch_order(batch_size, seed, rank, world_size)
        return TensorLoader(self.images, self.labels, renderer, order, device)

    def create_evaluation_loader(
        self,
        renderer: Renderer,
        *,
        batch_size: int,
        device: torch.device,
        workers: int,
        rank: int = 0,
        world_size: int = 1,
        cache: Cache = "os",
    ) -> EvaluationLoader:
        if not isinstance(
            renderer, EvaluationRenderer
        ):  # random views, which need the samples' numbers
            source = self.source(cache)
            return EvaluationViewLoader(
                source, renderer, batch_size, device, workers, rank, world_size
            )
        return TensorEvaluationLoader(
            self.images, self.labels, renderer, batch_size, device, rank, world_size
        )
