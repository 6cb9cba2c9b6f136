"""Image files as a source for `ViewLoader`."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sslortho.augment.renderer import Draws, Renderer
from sslortho.augment.cpu.view_kernel import crop_views, render_views
from sslortho.data.batches import Batch
from sslortho.data.image_folder import read_pixels
from sslortho.data.image_sets import ImageFiles
from sslortho.data.prefetch import Job
from sslortho.data.view_loader import Indices


class _FileReading:
    def __init__(self, paths: tuple[str, ...], renderer: Renderer) -> None:
        self.paths = paths
        self.settings = renderer.settings
        self.channels_last = renderer.channels_last

    def prepare(self, step: int, previous: Job[Batch] | None) -> None:
        pass

    def crop(
        self, indices: Indices, draws: Draws, out: NDArray[np.uint8], first: int, last: int
    ) -> None:
        for i in range(first, last):
            pixels = read_pixels(self.paths[indices[i]])
            crop_views(pixels, draws.uniforms[i], self.settings, out[i].reshape(1, 1, -1))

    def render(
        self, indices: Indices, draws: Draws, out: NDArray[np.float32], first: int, last: int
    ) -> None:
        for i in range(first, last):
            pixels = read_pixels(self.paths[indices[i]])
            uniforms, parameters = draws.uniforms[i], draws.parameters[i]
            render_views(pixels, uniforms, parameters, self.settings, self.channels_last, out, i)


class FileSource:
    """Image files, decoded by simplejpeg or PIL."""

    def __init__(self, data: ImageFiles) -> None:
        self.data = data

    @property
    def labels(self) -> Tensor:
        """int64 (n,)."""
        return self.data.labels

    @contextlib.contextmanager
    def open(self, batches: Sequence[Indices], renderer: Renderer) -> Iterator[_FileReading]:
        """Nothing needs opening beforehand."""
        yield _FileReading(self.data.paths, renderer)
