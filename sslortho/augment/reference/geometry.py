"""Crops, resized or padded, and flips with torch, a batch of one image size at a time.

Resampling is antialiased bicubic, as in PIL and torchvision, written as two matrix products an
image: rows of weights for the height, columns for the width. (`grid_sample` does not antialias.)
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslortho.augment.draws.crops import CropDraw, centre_interval
from sslortho.float32_products import ieee_float32


def cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -0.5, with which PIL and torch antialias; elementwise."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


def resampling_weights(
    start: Tensor, length: Tensor, first: Tensor, last: Tensor, size: int, out: int
) -> Tensor:
    """Bicubic weights, (batch, out, size), that resample [start, start + length) to `out` pixels.

    Where the interval shrinks, the kernel is widened in proportion (antialiasing). Result pixels to
    which no source pixel contributes have weights of 0.

    Args:
        start, length: the interval in source pixels, (batch,), fractions allowed.
        first, last: source pixels from `first` to before `last` may contribute, (batch,).
        size: number of source pixels.
        out: number of result pixels.
    """
    position = torch.arange(out, device=start.device, dtype=torch.float32) + 0.5
    scale = (length / out).view(-1, 1, 1)
    centre = start.view(-1, 1, 1) + position.view(1, -1, 1) * scale
    pixel = torch.arange(size, device=start.device, dtype=torch.float32).view(1, 1, -1)
    weights = cubic((pixel + 0.5 - centre) / scale.clamp(min=1))
    inside = (pixel >= first.view(-1, 1, 1)) & (pixel < last.view(-1, 1, 1))
    weights = weights * inside
    total = weights.sum(dim=-1, keepdim=True)
    return weights / torch.where(total == 0, 1, total)


def _resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    # uint8 (batch, 3, h, w), (batch, out, h), (batch, out, w) -> uint8 (batch, 3, out, out)
    batch, channels, height, width = images.shape
    x = images.to(rows.dtype).reshape(batch * channels * height, width)
    with ieee_float32(
        {images.device.type}
    ):  # 11 bits are too few for 256 levels and fractions of them
        x = torch.bmm(x.view(batch, channels * height, width), columns.mT)
        x = x.view(batch, channels, height, -1).transpose(1, 2).reshape(batch, height, -1)
        x = torch.bmm(rows, x).view(batch, rows.shape[1], channels, -1).transpose(1, 2)
    return x.add_(0.5).clamp_(0, 255).to(torch.uint8)


BOX = 5
"""Columns of a box: top, left, height, width, flip."""


def pack_boxes(draw: CropDraw) -> NDArray[np.float32]:
    """Pack a draw into one table, (batch, BOX), for a copy to a device; whole numbers, exact in float32."""
    columns = (draw.top, draw.left, draw.height, draw.width, draw.flip)
    return np.stack(columns, axis=1).astype(np.float32)


def crop_boxes(images: Tensor, boxes: Tensor, crop_size: int) -> Tensor:
    """`crop_and_resize` of packed boxes (batch, BOX) that are on the device of the images."""
    top, left, height, width, flip = boxes.unbind(dim=1)
    rows = resampling_weights(top, height, top, top + height, images.shape[2], crop_size)
    columns = resampling_weights(left, width, left, left + width, images.shape[3], crop_size)
    columns = torch.where((flip != 0).view(-1, 1, 1), columns.flip(1), columns)
    return _resample(images, rows, columns)


def crop_and_resize(images: Tensor, draw: CropDraw, crop_size: int) -> Tensor:
    """Cut one box out of each image, resample it, flip it; outside the image it is black.

    Args:
        images: uint8 (batch, 3, height, width), on any device.
        draw: boxes of the same batch.
        crop_size: side of the result in pixels.

    Returns:
        uint8 (batch, 3, crop_size, crop_size): torchvision's antialiased bicubic `resized_crop`,
        rounded once at the end. A box of crop_size pixels is copied exactly.
    """
    return crop_boxes(images, torch.from_numpy(pack_boxes(draw)).to(images.device), crop_size)


def centre_crop(images: Tensor, resize: int, crop_size: int) -> Tensor:
    """Resize the shorter side to `resize` pixels, then cut out the central square of `crop_size`.

    uint8 (batch, 3, height, width) to uint8 (batch, 3, crop_size, crop_size), as torchvision's
    antialiased bicubic `resize` and `center_crop`.
    """
    height, width = images.shape[-2:]
    if (height, width) == (crop_size, crop_size) and resize == crop_size:
        return images
    short = min(height, width)

    def weights(size: int) -> Tensor:
        start, length = (
            torch.tensor(centre_interval(size, short, resize, crop_size), device=images.device)
            .float()
            .split(1)
        )
        zero = torch.zeros_like(start)
        return resampling_weights(start, length, zero, zero + size, size, crop_size)

    rows, columns = weights(height), weights(width)
    count = images.shape[0]
    return _resample(images, rows.expand(count, -1, -1), columns.expand(count, -1, -1))
