"""Random resized crops and flips: drawn per sample, rendered a batch at a time.

Resampling is antialiased bicubic, as PIL and torchvision do it, written as two matrix products an
image: rows of weights for the height, columns for the width. (`grid_sample` is not the same: it
does not antialias.)
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslortho.augment.views import ViewSpec

TRIES = 10  # as torchvision's RandomResizedCrop
GEOMETRY_DRAWS = 2 * TRIES + 3
"""Uniform numbers that one sample's crop takes."""


@dataclass(frozen=True)
class CropDraw:
    """Boxes in source pixels and flips, each an array of (batch,)."""

    top: NDArray[np.int64]
    left: NDArray[np.int64]
    height: NDArray[np.int64]
    width: NDArray[np.int64]
    flip: NDArray[np.bool_]


def draw_crops(
    spec: ViewSpec,
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
    uniform: NDArray[np.float64],
) -> CropDraw:
    """Boxes with the distribution of torchvision's `RandomResizedCrop`, and flips.

    Args:
        spec: crop_scale, crop_ratio and flip_p are used.
        heights, widths: sizes of the source images, (batch,).
        uniform: (batch, GEOMETRY_DRAWS) from (0, 1).

    Up to ten tries of an area and a ratio; the first box that fits is placed uniformly. If none
    fits, the largest central box whose ratio is within the range.
    """
    heights, widths = heights[:, None], widths[:, None]
    low, high = spec.crop_scale
    area = heights * widths * (low + (high - low) * uniform[:, :TRIES])
    log_low, log_high = np.log(spec.crop_ratio[0]), np.log(spec.crop_ratio[1])
    ratio = np.exp(log_low + (log_high - log_low) * uniform[:, TRIES : 2 * TRIES])
    width = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    height = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (width > 0) & (width <= widths) & (height > 0) & (height <= heights)
    first = fits.argmax(axis=1)[:, None]
    width = np.take_along_axis(width, first, axis=1)
    height = np.take_along_axis(height, first, axis=1)
    top = np.floor(uniform[:, -3:-2] * (heights - height + 1)).astype(np.int64)
    left = np.floor(uniform[:, -2:-1] * (widths - width + 1)).astype(np.int64)

    none = ~fits.any(axis=1, keepdims=True)
    if none.any():
        source = widths / heights
        wide, tall = source > spec.crop_ratio[1], source < spec.crop_ratio[0]
        last_width = np.where(wide, np.rint(heights * spec.crop_ratio[1]), widths)
        last_height = np.where(tall, np.rint(widths / spec.crop_ratio[0]), heights)
        width = np.where(none, np.maximum(last_width, 1).astype(np.int64), width)
        height = np.where(none, np.maximum(last_height, 1).astype(np.int64), height)
        top = np.where(none, (heights - height) // 2, top)
        left = np.where(none, (widths - width) // 2, left)
    return CropDraw(top[:, 0], left[:, 0], height[:, 0], width[:, 0], uniform[:, -1] < spec.flip_p)


def cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -0.5, the one that PIL and torch antialias with."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


def resampling_weights(
    start: Tensor, length: Tensor, first: Tensor, last: Tensor, size: int, out: int
) -> Tensor:
    """Rows of bicubic weights (batch, out, size) that resample [start, start + length) to `out`.

    Args:
        start, length: the interval in source pixels, (batch,), fractions allowed.
        first, last: source pixels from `first` to before `last` may contribute, (batch,).
        size: source pixels.
        out: result pixels.

    Where the interval shrinks, the kernel is widened in proportion (antialiasing).
    """
    position = torch.arange(out, device=start.device, dtype=torch.float32) + 0.5
    scale = (length / out).view(-1, 1, 1)
    centre = start.view(-1, 1, 1) + position.view(1, -1, 1) * scale
    pixel = torch.arange(size, device=start.device, dtype=torch.float32).view(1, 1, -1)
    weights = cubic((pixel + 0.5 - centre) / scale.clamp(min=1))
    inside = (pixel >= first.view(-1, 1, 1)) & (pixel < last.view(-1, 1, 1))
    weights = weights * inside
    return weights / weights.sum(dim=-1, keepdim=True)


def _resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    # uint8 (batch, 3, h, w), (batch, out, h), (batch, out, w) -> uint8 (batch, 3, out, out)
    batch, channels, height, width = images.shape
    x = images.to(rows.dtype).reshape(batch * channels * height, width)
    x = torch.bmm(x.view(batch, channels * height, width), columns.mT)
    x = x.view(batch, channels, height, -1).transpose(1, 2).reshape(batch, height, -1)
    x = torch.bmm(rows, x).view(batch, rows.shape[1], channels, -1).transpose(1, 2)
    return x.add_(0.5).clamp_(0, 255).to(torch.uint8)


def crop_and_resize(images: Tensor, draw: CropDraw, crop_size: int) -> Tensor:
    """Cut one box out of each image, resample it, flip it.

    Args:
        images: uint8 (batch, 3, height, width), on any device.
        draw: boxes of the same batch.
        crop_size: side of the result.

    Returns:
        uint8 (batch, 3, crop_size, crop_size): torchvision's antialiased bicubic `resized_crop`,
        rounded once at the end.
    """

    def to_device(array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array.astype(np.float32)).to(images.device, non_blocking=True)

    top, left = to_device(draw.top), to_device(draw.left)
    height, width = to_device(draw.height), to_device(draw.width)
    rows = resampling_weights(top, height, top, top + height, images.shape[2], crop_size)
    columns = resampling_weights(left, width, left, left + width, images.shape[3], crop_size)
    flip = torch.from_numpy(draw.flip).to(images.device, non_blocking=True)
    columns = torch.where(flip.view(-1, 1, 1), columns.flip(1), columns)
    return _resample(images, rows, columns)


def centre_crop(images: Tensor, resize: int, crop_size: int) -> Tensor:
    """Shorter side to `resize`, then the central `crop_size` square.

    uint8 (batch, 3, height, width) to uint8 (batch, 3, crop_size, crop_size), as torchvision's
    antialiased bicubic `resize` and `center_crop`.
    """
    height, width = images.shape[-2:]
    if (height, width) == (crop_size, crop_size) and resize == crop_size:
        return images
    short = min(height, width)

    def weights(size: int) -> Tensor:
        resized = resize if size == short else int(resize * size / short)
        offset = round((resized - crop_size) / 2)
        scale = size / resized
        start = torch.full((1,), offset * scale, device=images.device)
        length = torch.full((1,), crop_size * scale, device=images.device)
        zero = torch.zeros_like(start)
        return resampling_weights(start, length, zero, zero + size, size, crop_size)

    rows, columns = weights(height), weights(width)
    count = images.shape[0]
    return _resample(images, rows.expand(count, -1, -1), columns.expand(count, -1, -1))
