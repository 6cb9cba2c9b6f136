"""From uint8 images and their indices to finished views: what a loader is given."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslortho.augment.draws import check_seed, uniforms
from sslortho.augment.reference.geometry import (
    CropDraw,
    centre_crop,
    check_sizes,
    crop_and_resize,
    draw_crops,
)
from sslortho.augment.cpu.geometry_kernel import GEOMETRY_DRAWS
from sslortho.augment.reference.photometric import (
    PARAMETERS,
    PHOTOMETRIC_DRAWS,
    PhotometricDraw,
    draw_photometric,
    normalise,
    pack_photometric,
)
from sslortho.augment.gpu.photometric import compiled_renderer
from sslortho.augment.cpu.view_kernel import render_crops, view_settings
from sslortho.augment.views import EvaluationSpec, ViewSpec

GEOMETRY, PHOTOMETRY = range(2)


@dataclass(frozen=True)
class Draws:
    """All that is random about the views of a batch, for the kernels of `view_kernel`."""

    uniforms: NDArray[np.float64]
    """(batch, views, GEOMETRY_DRAWS): become boxes once an image's size is known."""
    parameters: NDArray[np.float32]
    """(batch, views, PARAMETERS): rows of `photometric.pack_photometric`."""


class Renderer(Protocol):
    """What a loader of image files or betons is given."""

    @property
    def channels_last(self) -> bool:
        """Memory format of the views."""
        ...

    @property
    def crop_sizes(self) -> tuple[int, ...]:
        """Side of each view in pixels."""
        ...

    @property
    def settings(self) -> NDArray[np.float64]:
        """The views as numbers, see `view_kernel.view_settings`."""
        ...

    def draw(self, indices: NDArray[np.int64], epoch: int) -> Draws:
        """The draws of these samples, (batch,), in an epoch."""
        ...

    def apply_photometry(self, view: int, crops: Tensor, parameters: NDArray[np.float32]) -> Tensor:
        """uint8 crops (batch, 3, size, size) to normalised float32.

        parameters: (batch, PARAMETERS), those of this view in `draw`.
        """
        ...


@dataclass(frozen=True)
class ViewRenderer:
    """Random views of a batch; every draw is a function of (seed, epoch, sample index, view).

    Args:
        specs: one for each view.
        seed: 0 to 2**32 - 1.
        channels_last: memory format of the views.
    """

    specs: tuple[ViewSpec, ...]
    seed: int = 0
    channels_last: bool = False

    def __post_init__(self) -> None:
        check_seed(self.seed)

    @property
    def crop_sizes(self) -> tuple[int, ...]:
        """Side of each view in pixels."""
        return tuple(spec.crop_size for spec in self.specs)

    @property
    def settings(self) -> NDArray[np.float64]:
        """The views as numbers, (views, SETTINGS)."""
        return view_settings(self.specs)

    def check_size(self, height: int, width: int) -> None:
        """Raise ValueError if images of this size are too small for one of the views."""
        for spec in self.specs:
            check_sizes(spec, np.array([height]), np.array([width]))

    def _uniforms(
        self, view: int, purpose: int, indices: NDArray[np.int64], epoch: int, count: int
    ) -> NDArray[np.float64]:
        return uniforms(self.seed, epoch, indices, 2 * view + purpose, count)

    def draw_crops(
        self,
        view: int,
        indices: NDArray[np.int64],
        epoch: int,
        heights: NDArray[np.int64],
        widths: NDArray[np.int64],
    ) -> CropDraw:
        """Boxes and flips of one view for images of these sizes; all arrays (batch,)."""
        uniform = self._uniforms(view, GEOMETRY, indices, epoch, GEOMETRY_DRAWS)
        return draw_crops(self.specs[view], heights, widths, uniform)

    def draw_photometric(
        self, view: int, indices: NDArray[np.int64], epoch: int
    ) -> PhotometricDraw:
        """Photometric parameters of one view; indices (batch,)."""
        uniform = self._uniforms(view, PHOTOMETRY, indices, epoch, PHOTOMETRIC_DRAWS)
        return draw_photometric(self.specs[view], uniform)

    def draw(self, indices: NDArray[np.int64], epoch: int) -> Draws:
        """All draws of these samples, (batch,), in an epoch."""
        views = range(len(self.specs))
        boxes = [self._uniforms(v, GEOMETRY, indices, epoch, GEOMETRY_DRAWS) for v in views]
        colours = [pack_photometric(self.draw_photometric(v, indices, epoch)) for v in views]
        return Draws(np.stack(boxes, axis=1), np.stack(colours, axis=1))

    def finish(self, view: int, crops: Tensor, indices: NDArray[np.int64], epoch: int) -> Tensor:
        """Photometry of crops that are made already, drawn here: see `apply_photometry`."""
        drawn = self.draw_photometric(view, indices, epoch)
        return self.apply_photometry(view, crops, pack_photometric(drawn))

    def apply_photometry(self, view: int, crops: Tensor, parameters: NDArray[np.float32]) -> Tensor:
        """Photometry and memory format of crops that are made already.

        uint8 (batch, 3, crop_size, crop_size) to normalised float32 of the same shape: by the fused
        kernel on a CPU, by one compiled graph on a GPU. parameters: (batch, PARAMETERS).
        """
        if crops.device.type == "cpu":
            return _render_on_cpu(crops, parameters, self.settings[view], self.channels_last)
        table = torch.from_numpy(parameters).to(crops.device, non_blocking=True)
        return compiled_renderer(self.specs[view], self.channels_last)(crops, table)

    def render(self, images: Tensor, indices: NDArray[np.int64], epoch: int) -> tuple[Tensor, ...]:
        """All views of images of one size: uint8 (batch, 3, h, w) on the device that renders."""
        heights = np.full(len(indices), images.shape[2], dtype=np.int64)
        widths = np.full(len(indices), images.shape[3], dtype=np.int64)
        views = []
        for view, spec in enumerate(self.specs):
            boxes = self.draw_crops(view, indices, epoch, heights, widths)
            crops = crop_and_resize(images, boxes, spec.crop_size)
            views.append(self.finish(view, crops, indices, epoch))
        return tuple(views)


def _render_on_cpu(
    crops: Tensor, parameters: NDArray[np.float32], settings: NDArray[np.float64], last: bool
) -> Tensor:
    batch, _, height, width = crops.shape
    pixels = crops.permute(0, 2, 3, 1).contiguous().numpy()
    out = np.empty((batch, pixels[0].size), np.float32)
    render_crops(pixels, parameters, settings, last, out)
    return as_images(torch.from_numpy(out), height, width, last)


def as_images(flat: Tensor, height: int, width: int, channels_last: bool) -> Tensor:
    """(batch, 3 * height * width) of pixels or of planes to (batch, 3, height, width), no copy."""
    if channels_last:
        return flat.view(-1, height, width, 3).permute(0, 3, 1, 2)
    return flat.view(-1, 3, height, width)


@dataclass(frozen=True)
class EvaluationRenderer:
    """The evaluation view of a batch; nothing is random."""

    spec: EvaluationSpec
    channels_last: bool = False

    @property
    def crop_sizes(self) -> tuple[int, ...]:
        """Side of the view in pixels."""
        return (self.spec.crop_size,)

    @property
    def settings(self) -> NDArray[np.float64]:
        """The view as numbers, (1, SETTINGS)."""
        return view_settings((self.spec,))

    def draw(self, indices: NDArray[np.int64], epoch: int) -> Draws:
        """Nothing: no box is drawn, all photometry is off."""
        batch = len(indices)
        return Draws(
            np.zeros((batch, 1, GEOMETRY_DRAWS)), np.zeros((batch, 1, PARAMETERS), np.float32)
        )

    def apply_photometry(
        self, view: int, crops: Tensor, parameters: NDArray[np.float32] | None = None
    ) -> Tensor:
        """uint8 (batch, 3, crop_size, crop_size) to normalised float32 of the same shape."""
        views = normalise(crops.float().div_(255), self.spec.mean, self.spec.std)
        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        return views.contiguous(memory_format=memory_format)

    def render(self, images: Tensor) -> Tensor:
        """Images of one size, uint8 (batch, 3, h, w), to normalised float32 crops."""
        return self.apply_photometry(0, centre_crop(images, self.spec.resize, self.spec.crop_size))
