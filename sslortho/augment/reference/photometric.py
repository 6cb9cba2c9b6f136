"""Colour, blur and normalisation, operation by operation with torch.

Each operation is torchvision's functional one on float images, with a parameter for each sample.
Images are (batch, 3, h, w) with values from 0 to 1 unless stated otherwise.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sslortho.augment.draws.photometric import PhotometricDraw
from sslortho.augment.views import LUMA, Triple, ViewSpec


def to_luma(images: Tensor) -> Tensor:
    """Luma of each pixel: (batch, 3, h, w) to (batch, 1, h, w)."""
    r, g, b = images.unbind(1)
    return (LUMA[0] * r + LUMA[1] * g + LUMA[2] * b).unsqueeze(1)


def _blend(images: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    return (factor * images + (1 - factor) * other).clamp_(0, 1)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply values by the factor, (batch, 1, 1, 1) here and below."""
    return (images * factor).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance of values from the mean luma of their image."""
    return _blend(images, to_luma(images).mean(dim=(1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance of values from the luma of their pixel."""
    return _blend(images, to_luma(images), factor)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by `shift` turns of the colour circle, (batch, 1, 1, 1).

    Value and saturation of HSV stay.
    """
    value, which = images.max(dim=1, keepdim=True)
    chroma = value - images.amin(dim=1, keepdim=True)
    r, g, b = images.split(1, dim=1)
    sector = torch.where(which == 0, g - b, torch.where(which == 1, b - r, r - g))
    # Six sectors to a turn. A grey pixel has no hue: its chroma is 0, and any value will do.
    hue = sector / torch.where(chroma > 0, chroma, 1) + 2 * which + 6 * shift
    offset = torch.tensor([5.0, 3.0, 1.0], device=images.device, dtype=images.dtype)
    k = (hue + offset.view(1, 3, 1, 1)).remainder_(6)
    return value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)


def gaussian_blur(images: Tensor, sigma: Tensor, taps: int) -> Tensor:
    """Blur with a separable Gaussian of `taps` pixels; edges are reflected.

    sigma: standard deviation in pixels, (batch,).
    """
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
    """Return (images - mean) / std for each channel."""
    scale = images.new_tensor(std).view(1, 3, 1, 1)
    return (images - images.new_tensor(mean).view(1, 3, 1, 1)) / scale


def _jitter(images: Tensor, draw: PhotometricDraw) -> Tensor:
    # The draw is on the host, so the images that an operation changes are known without a
    # synchronisation
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

    uint8 (batch, 3, h, w) on any device to float32 of the same shape. It is the reference that the
    fused kernels and the GPU graph are tested against.
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
