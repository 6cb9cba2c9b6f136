"""From uint8 images and their indices to finished views: what a loader is given."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslortho.augment.draws import check_seed, uniforms
from sslortho.augment.geometry import (
    GEOMETRY_DRAWS,
    CropDraw,
    centre_crop,
    crop_and_resize,
    draw_crops,
)
from sslortho.augment.photometric import (
    PHOTOMETRIC_DRAWS,
    PhotometricDraw,
    draw_photometric,
    normalise,
    render_photometric,
)
from sslortho.augment.views import EvaluationSpec, ViewSpec

GEOMETRY, PHOTOMETRY = range(2)


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

    def draw_crops(
        self,
        view: int,
        indices: NDArray[np.int64],
        epoch: int,
        heights: NDArray[np.int64],
        widths: NDArray[np.int64],
    ) -> CropDraw:
        """Boxes and flips of one view for images of these sizes; all arrays (batch,)."""
        stream = 2 * view + GEOMETRY
        uniform = uniforms(self.seed, epoch, indices, stream, GEOMETRY_DRAWS)
        return draw_crops(self.specs[view], heights, widths, uniform)

    def draw_photometric(
        self, view: int, indices: NDArray[np.int64], epoch: int
    ) -> PhotometricDraw:
        """Photometric parameters of one view; indices (batch,)."""
        stream = 2 * view + PHOTOMETRY
        uniform = uniforms(self.seed, epoch, indices, stream, PHOTOMETRIC_DRAWS)
        return draw_photometric(self.specs[view], uniform)

    def finish(self, view: int, crops: Tensor, indices: NDArray[np.int64], epoch: int) -> Tensor:
        """Photometry and memory format of crops that are made already.

        uint8 (batch, 3, crop_size, crop_size) to normalised float32 of the same shape.
        """
        draw = self.draw_photometric(view, indices, epoch)
        views = render_photometric(crops, draw, self.specs[view])
        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        return views.contiguous(memory_format=memory_format)

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


@dataclass(frozen=True)
class EvaluationRenderer:
    """The evaluation view of a batch; nothing is random."""

    spec: EvaluationSpec
    channels_last: bool = False

    def finish(self, crops: Tensor) -> Tensor:
        """uint8 (batch, 3, crop_size, crop_size) to normalised float32 of the same shape."""
        views = normalise(crops.float().div_(255), self.spec.mean, self.spec.std)
        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        return views.contiguous(memory_format=memory_format)

    def render(self, images: Tensor) -> Tensor:
        """Images of one size, uint8 (batch, 3, h, w), to normalised float32 crops."""
        return self.finish(centre_crop(images, self.spec.resize, self.spec.crop_size))
