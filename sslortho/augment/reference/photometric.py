"""Colour and blur: drawn per sample, rendered a whole batch at a time by torch.

Every operation is torchvision's functional one on float images, with a parameter for each sample.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sslortho.augment.views import Triple, ViewSpec

PHOTOMETRIC_DRAWS = 13
"""Uniform numbers that one sample's photometry takes."""

LUMA = (0.2989, 0.587, 0.114)  # torchvision's rgb_to_grayscale (ITU-R BT.601)

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

JITTER_COLUMN = 0
"""Of the table of `pack_photometric`; here and below."""
FACTOR_COLUMN = 1
"""The first of four: brightness, contrast, saturation and hue, in the order of their codes."""
ORDER_COLUMN = 5
"""The first of four: the code of the operation that comes first, second, ..."""
GRAYSCALE_COLUMN, BLUR_COLUMN, SIGMA_COLUMN, SOLARISE_COLUMN = 9, 10, 11, 12
PARAMETERS = 13
"""Columns of that table."""


@dataclass(frozen=True)
class PhotometricDraw:
    """Parameters of a batch, on the host; each array is (batch,) but for `order`."""

    jitter: NDArray[np.bool_]
    brightness: NDArray[np.float64]
    contrast: NDArray[np.float64]
    saturation: NDArray[np.float64]
    hue: NDArray[np.float64]
    order: NDArray[np.int64]
    """(batch, 4): which of the four operations of the jitter comes first, second, ..."""
    grayscale: NDArray[np.bool_]
    blur: NDArray[np.bool_]
    sigma: NDArray[np.float64]
    solarise: NDArray[np.bool_]


def draw_photometric(spec: ViewSpec, uniform: NDArray[np.float64]) -> PhotometricDraw:
    """Parameters with torchvision's distributions from (batch, PHOTOMETRIC_DRAWS) uniform numbers."""

    def around_one(column: int, strength: float) -> NDArray[np.float64]:
        return 1 + strength * (2 * uniform[:, column] - 1)

    low, high = spec.blur_sigma
    return PhotometricDraw(
        jitter=uniform[:, 0] < spec.jitter_p,
        brightness=around_one(1, spec.brightness),
        contrast=around_one(2, spec.contrast),
        saturation=around_one(3, spec.saturation),
        hue=spec.hue * (2 * uniform[:, 4] - 1),
        order=uniform[:, 5:9].argsort(axis=1),
        grayscale=uniform[:, 9] < spec.grayscale_p,
        blur=uniform[:, 10] < spec.blur_p,
        sigma=low + (high - low) * uniform[:, 11],
        solarise=uniform[:, 12] < spec.solarise_p,
    )


def pack_photometric(draw: PhotometricDraw) -> NDArray[np.float32]:
    """The draw as one table, (batch, PARAMETERS), which goes to a kernel or a device in one piece.

    The columns are the fields of PhotometricDraw in their order; `order` takes four. Switches and
    codes are whole numbers, exact in float32.
    """
    table = np.empty((len(draw.jitter), PARAMETERS), np.float32)
    table[:, JITTER_COLUMN] = draw.jitter
    factors = (draw.brightness, draw.contrast, draw.saturation, draw.hue)
    for code, factor in enumerate(factors):
        table[:, FACTOR_COLUMN + code] = factor
    table[:, ORDER_COLUMN : ORDER_COLUMN + 4] = draw.order
    table[:, GRAYSCALE_COLUMN] = draw.grayscale
    table[:, BLUR_COLUMN] = draw.blur
    table[:, SIGMA_COLUMN] = draw.sigma
    table[:, SOLARISE_COLUMN] = draw.solarise
    return table


def to_luma(images: Tensor) -> Tensor:
    """(batch, 3, h, w) to (batch, 1, h, w)."""
    r, g, b = images.unbind(1)
    return (LUMA[0] * r + LUMA[1] * g + LUMA[2] * b).unsqueeze(1)


def _blend(images: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    return (factor * images + (1 - factor) * other).clamp_(0, 1)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Values times factor; factor is (batch, 1, 1, 1) here and below."""
    return (images * factor).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Away from the mean luma of each image."""
    return _blend(images, to_luma(images).mean(dim=(1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Away from the luma of each pixel."""
    return _blend(images, to_luma(images), factor)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the colour circle by `shift` turns; value and saturation (HSV) stay."""
    value, which = images.max(dim=1, keepdim=True)
    chroma = value - images.amin(dim=1, keepdim=True)
    r, g, b = images.split(1, dim=1)
    sector = torch.where(which == 0, g - b, torch.where(which == 1, b - r, r - g))
    # Six sectors to a turn. A grey pixel has no hue; its chroma of 0 makes any right.
    hue = sector / torch.where(chroma > 0, chroma, 1) + 2 * which + 6 * shift
    offset = torch.tensor([5.0, 3.0, 1.0], device=images.device, dtype=images.dtype)
    k = (hue + offset.view(1, 3, 1, 1)).remainder_(6)
    return value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)


def gaussian_blur(images: Tensor, sigma: Tensor, taps: int) -> Tensor:
    """Separable Gaussian of `taps` pixels with a sigma (batch,) for each image; edges reflected."""
    batch, channels, height, width = images.shape
    half = taps // 2
    x = torch.arange(-half, half + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (x / sigma.view(-1, 1)).square())
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    kernel = kernel.repeat_interleave(channels, dim=0)
    planes = images.reshape(1, batch * channels, height, width)
    planes = functional.pad(planes, (half, half, half, half), mode="reflect")
    groups = batch * channels
    planes = functional.conv2d(planes, kernel.view(groups, 1, 1, taps), groups=groups)
    planes = functional.conv2d(planes, kernel.view(groups, 1, taps, 1), groups=groups)
    return planes.view(batch, channels, height, width)


def solarise(images: Tensor, threshold: float) -> Tensor:
    """Invert values at or above the threshold."""
    return torch.where(images >= threshold, 1 - images, images)


def normalise(images: Tensor, mean: Triple, std: Triple) -> Tensor:
    """(images - mean) / std for each channel."""
    scale = images.new_tensor(std).view(1, 3, 1, 1)
    return (images - images.new_tensor(mean).view(1, 3, 1, 1)) / scale


def _jitter(images: Tensor, draw: PhotometricDraw) -> Tensor:
    # The draw lives on the host, so which images an operation touches is known without a
    # synchronisation.
    operations = (
        (adjust_brightness, draw.brightness),
        (adjust_contrast, draw.contrast),
        (adjust_saturation, draw.saturation),
        (adjust_hue, draw.hue),
    )
    for place in range(4):
        for code, (operation, factors) in enumerate(operations):
            chosen = np.flatnonzero(draw.jitter & (draw.order[:, place] == code))
            if len(chosen):
                factor = torch.from_numpy(factors[chosen].astype(np.float32))
                factor = factor.to(images.device, non_blocking=True).view(-1, 1, 1, 1)
                index = torch.from_numpy(chosen).to(images.device, non_blocking=True)
                images[index] = operation(images[index], factor)
    return images


def render_photometric(images: Tensor, draw: PhotometricDraw, spec: ViewSpec) -> Tensor:
    """Jitter, grayscale, blur, solarise and normalise a batch.

    uint8 (batch, 3, h, w) on any device to float32 of the same shape.
    """

    def chosen(mask: NDArray[np.bool_]) -> Tensor | None:
        index = np.flatnonzero(mask)
        return torch.from_numpy(index).to(images.device, non_blocking=True) if len(index) else None

    x = images.float() / 255
    x = _jitter(x, draw)
    if (index := chosen(draw.grayscale)) is not None:
        x[index] = to_luma(x[index]).expand(-1, 3, -1, -1)
    if (index := chosen(draw.blur)) is not None:
        sigma = torch.from_numpy(draw.sigma[draw.blur].astype(np.float32))
        x[index] = gaussian_blur(x[index], sigma.to(images.device), spec.blur_taps)
    if (index := chosen(draw.solarise)) is not None:
        x[index] = solarise(x[index], spec.solarise_threshold)
    return normalise(x, spec.mean, spec.std)
