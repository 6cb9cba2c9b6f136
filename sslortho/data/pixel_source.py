"""Image sets that decode one image at a time, as a source for `ViewLoader`."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sslortho.augment.cpu.view_kernel import crop_views, render_views
from sslortho.augment.renderer import Draws, Renderer
from sslortho.data.batches import Batch
from sslortho.data.names import to_line
from sslortho.data.prefetch import Job
from sslortho.data.view_loader import Indices


class DecodedImages(Protocol):
    """Labelled images that are decoded one by one; every image set is such."""

    @property
    def labels(self) -> Tensor:
        """int64 (n,)."""
        ...

    def open(self, index: int) -> NDArray[np.uint8]:
        """Pixels (height, width, 3), contiguous; called by several threads at a time."""
        ...

    def file_of(self, index: int) -> str | None:
        """Path of the image; None if it has none."""
        ...

    def name_of(self, index: int) -> str:
        """Name of the image for messages."""
        ...


class _PixelReading:
    """Views cut out of the pixels of one image after another."""

    def __init__(self, data: DecodedImages, renderer: Renderer) -> None:
        self.data = data
        self.settings = renderer.settings
        self.channels_last = renderer.channels_last

    def prepare(self, step: int, previous: Job[Batch] | None) -> None:
        pass

    def crop(
        self, indices: Indices, draws: Draws, out: NDArray[np.uint8], first: int, last: int
    ) -> None:
        for i in range(first, last):
            pixels = self.data.open(int(indices[i]))
            with self._naming(int(indices[i])):
                crop_views(pixels, draws.uniforms[i], self.settings, out[i].reshape(1, 1, -1))

    def render(
        self, indices: Indices, draws: Draws, out: NDArray[np.float32], first: int, last: int
    ) -> None:
        for i in range(first, last):
            pixels = self.data.open(int(indices[i]))
            uniforms, parameters = draws.uniforms[i], draws.parameters[i]
            with self._naming(int(indices[i])):
                render_views(
                    pixels, uniforms, parameters, self.settings, self.channels_last, out, i
                )

    @contextlib.contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        """Name the image in a ValueError of the kernels: it is too small for a view."""
        try:
            yield
        except ValueError as error:
            name = self.data.file_of(index) or self.data.name_of(index)
            raise ValueError(f"{to_line(name)}: {error}") from error


class PixelSource:
    """Source that decodes each image with the image set's own `open`."""

    def __init__(self, data: DecodedImages) -> None:
        self.data = data

    @property
    def labels(self) -> Tensor:
        """int64 (n,)."""
        return self.data.labels

    @contextlib.contextmanager
    def open(self, batches: Sequence[Indices], renderer: Renderer) -> Iterator[_PixelReading]:
        """A reading of these batches; nothing needs opening beforehand."""
        yield _PixelReading(self.data, renderer)
