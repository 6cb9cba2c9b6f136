"""Renderers: uint8 images and their indices to finished views. A loader is given one of them."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslortho.augment.cpu.view_kernel import render_crops, view_settings
from sslortho.augment.draws.crops import GEOMETRY_DRAWS, CropDraw, check_sizes, draw_crops
from sslortho.augment.draws.photometric import (
    PARAMETERS,
    PHOTOMETRIC_DRAWS,
    PhotometricDraw,
    draw_photometric,
    pack_photometric,
)
from sslortho.augment.draws.random_numbers import check_seed, uniforms
from sslortho.augment.gpu.compiled import compiled_renderer
from sslortho.augment.reference.geometry import BOX, centre_crop, crop_boxes, pack_boxes
from sslortho.augment.reference.photometric import normalise
from sslortho.augment.send import send
from sslortho.augment.views import EvaluationSpec, ViewSpec

GEOMETRY, PHOTOMETRY = range(2)
"""Purposes of the random numbers of a view."""


@dataclass(frozen=True)
class Draws:
    """All that is random about the views of a batch, for the kernels of `cpu.view_kernel`."""

    uniforms: NDArray[np.float64]
    """(batch, views, GEOMETRY_DRAWS) from (0, 1); boxes are made of them once an image's size is known."""
    parameters: NDArray[np.float32]
    """(batch, views, PARAMETERS), rows of `pack_photometric`."""


class Renderer(Protocol):
    """Interface of a renderer to the loaders of image files and betons."""

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
        """The views as a table, (views, SETTINGS), see `cpu.view_kernel.view_settings`."""
        ...

    def draw(self, indices: NDArray[np.int64], epoch: int) -> Draws:
        """Draw for these samples, (batch,), in an epoch."""
        ...

    def apply_photometry(self, view: int, crops: Tensor, parameters: NDArray[np.float32]) -> Tensor:
        """Render uint8 crops (batch, 3, size, size) to normalised float32 of the same shape.

        parameters: (batch, PARAMETERS), those of this view in `draw`.
        """
        ...


@dataclass(frozen=True)
class ViewRenderer:
    """Renderer of random views; every draw is a function of (seed, epoch, sample index, view).

    Args:
        specs: specification of each view.
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
        """The views as a table, (views, SETTINGS)."""
        return view_settings(self.specs)

    def check_size(self, height: int, width: int) -> None:
        """Raise ValueError if images of this size in pixels are too small for one of the views."""
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
        """Draw boxes and flips of one view for images of these sizes; all arrays are (batch,)."""
        uniform = self._uniforms(view, GEOMETRY, indices, epoch, GEOMETRY_DRAWS)
        return draw_crops(self.specs[view], heights, widths, uniform)

    def draw_photometric(
        self, view: int, indices: NDArray[np.int64], epoch: int
    ) -> PhotometricDraw:
        """Draw the photometric parameters of one view; indices: (batch,)."""
        uniform = self._uniforms(view, PHOTOMETRY, indices, epoch, PHOTOMETRIC_DRAWS)
        return draw_photometric(self.specs[view], uniform)

    def draw(self, indices: NDArray[np.int64], epoch: int) -> Draws:
        """Draw everything for these samples, (batch,), in an epoch."""
        views = range(len(self.specs))
        boxes = [self._uniforms(v, GEOMETRY, indices, epoch, GEOMETRY_DRAWS) for v in views]
        colours = [pack_photometric(self.draw_photometric(v, indices, epoch)) for v in views]
        return Draws(np.stack(boxes, axis=1), np.stack(colours, axis=1))

    def finish(self, view: int, crops: Tensor, indices: NDArray[np.int64], epoch: int) -> Tensor:
        """Draw the photometry of finished crops and apply it: see `apply_photometry`."""
        drawn = self.draw_photometric(view, indices, epoch)
        return self.apply_photometry(view, crops, pack_photometric(drawn))

    def apply_photometry(self, view: int, crops: Tensor, parameters: NDArray[np.float32]) -> Tensor:
        """Render the photometry of finished crops, in the renderer's memory format.

        uint8 (batch, 3, crop_size, crop_size) to normalised float32 of the same shape: by the fused
        kernel on a CPU, by one compiled graph on a GPU. parameters: (batch, PARAMETERS).
        """
        return self._apply(view, crops, send(torch.from_numpy(parameters), crops.device))

    def _apply(self, view: int, crops: Tensor, table: Tensor) -> Tensor:
        if crops.device.type == "cpu":
            return _render_on_cpu(crops, table.numpy(), self.settings[view], self.channels_last)
        return compiled_renderer(self.specs[view], self.channels_last)(crops, table)

    def draw_table(
        self, indices: NDArray[np.int64], epoch: int, height: int, width: int
    ) -> NDArray[np.float32]:
        """Draw everything for samples of one size, (batch,), as one array for `render_table`.

        It has views * batch * (BOX + PARAMETERS) numbers: the boxes of all views, then the photometry.
        """
        heights, widths = (np.full(len(indices), side, dtype=np.int64) for side in (height, width))
        views = range(len(self.specs))
        boxes = [pack_boxes(self.draw_crops(v, indices, epoch, heights, widths)) for v in views]
        colours = [pack_photometric(self.draw_photometric(v, indices, epoch)) for v in views]
        return np.concatenate([part.reshape(-1) for part in (*boxes, *colours)])

    def render_table(self, images: Tensor, table: Tensor) -> tuple[Tensor, ...]:
        """Render all views of images of one size, as `render`, by a table on their device."""
        views, batch = len(self.specs), len(images)
        boxes, colours = table.split([views * batch * BOX, views * batch * PARAMETERS])
        parts = zip(boxes.view(views, batch, BOX), colours.view(views, batch, -1), strict=True)
        return tuple(
            self._apply(view, crop_boxes(images, box, self.crop_sizes[view]), colour)
            for view, (box, colour) in enumerate(parts)
        )

    def render(self, images: Tensor, indices: NDArray[np.int64], epoch: int) -> tuple[Tensor, ...]:
        """Render all views of images of one size.

        images: uint8 (batch, 3, h, w) on the device that renders. Returns one float32 tensor (batch,
        3, crop_size, crop_size) for each view.
        """
        table = self.draw_table(indices, epoch, *images.shape[2:])
        return self.render_table(images, torch.from_numpy(table).to(images.device))


def _render_on_cpu(
    crops: Tensor, parameters: NDArray[np.float32], settings: NDArray[np.float64], last: bool
) -> Tensor:
    batch, _, height, width = crops.shape
    pixels = crops.permute(0, 2, 3, 1).contiguous().numpy()
    out = np.empty((batch, pixels[0].size), np.float32)
    render_crops(pixels, parameters, settings, last, out)
    return as_images(torch.from_numpy(out), height, width, last)


def as_images(flat: Tensor, height: int, width: int, channels_last: bool) -> Tensor:
    """View (batch, 3 * height * width), pixels or planes, as (batch, 3, height, width)."""
    if channels_last:
        return flat.view(-1, height, width, 3).permute(0, 3, 1, 2)
    return flat.view(-1, 3, height, width)


@dataclass(frozen=True)
class EvaluationRenderer:
    """Renderer of the evaluation view; nothing is random."""

    spec: EvaluationSpec
    channels_last: bool = False

    @property
    def crop_sizes(self) -> tuple[int, ...]:
        """Side of the view in pixels."""
        return (self.spec.crop_size,)

    @property
    def settings(self) -> NDArray[np.float64]:
        """The view as a table, (1, SETTINGS)."""
        return view_settings((self.spec,))

    def draw(self, indices: NDArray[np.int64], epoch: int) -> Draws:
        """Return zeros: no box is drawn, all photometry is off."""
        batch = len(indices)
        return Draws(
            np.zeros((batch, 1, GEOMETRY_DRAWS)), np.zeros((batch, 1, PARAMETERS), np.float32)
        )

    def apply_photometry(
        self, view: int, crops: Tensor, parameters: NDArray[np.float32] | None = None
    ) -> Tensor:
        """Normalise uint8 (batch, 3, crop_size, crop_size) to float32 of the same shape."""
        views = normalise(crops.float().div_(255), self.spec.mean, self.spec.std)
        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        return views.contiguous(memory_format=memory_format)

    def render(self, images: Tensor) -> Tensor:
        """Render images of one size, uint8 (batch, 3, h, w), to normalised float32 crops."""
        return self.apply_photometry(0, centre_crop(images, self.spec.resize, self.spec.crop_size))
