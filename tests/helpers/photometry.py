"""Specifications, draws and comparisons for tests of the photometric renderers."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import functional as tv

from sslortho.augment import ViewSpec, create_views
from sslortho.augment.draws.photometric import (
    BRIGHTNESS,
    CONTRAST,
    HUE,
    PHOTOMETRIC_DRAWS,
    SATURATION,
    PhotometricDraw,
    draw_photometric,
    pack_photometric,
)

PUBLISHED = {
    f"{name} {number}": spec
    for name in ("barlow_twins", "barlow_twins_small", "barlow_twins_digits")
    for number, spec in enumerate(create_views(name), start=1)
}
FIRST, SECOND = create_views("barlow_twins")
EVERYTHING = replace(FIRST, jitter_p=0.5, grayscale_p=0.5, blur_p=0.5, solarise_p=0.5, blur_taps=9)
NOTHING = replace(FIRST, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
STRONG = replace(
    FIRST,
    jitter_p=1.0,
    brightness=1.0,
    contrast=1.0,
    saturation=1.0,
    hue=0.5,
    grayscale_p=0.0,
    blur_p=0.5,
)
SPECS = {**PUBLISHED, "everything": EVERYTHING, "nothing": NOTHING, "strong": STRONG}

ROUNDING = 2e-6
"""Largest difference between two ways to round, for values from 0 to 1."""


def noise(count: int, height: int = 16, width: int = 20, seed: int = 0) -> Tensor:
    """Random images, uint8 (count, 3, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def in_loader_memory(images: Tensor) -> Tensor:
    """The same images as the second of two views in (batch, views, h, w, 3)."""
    memory = torch.zeros(len(images), 2, *images.shape[2:], 3, dtype=images.dtype)
    memory[:, 1] = images.permute(0, 2, 3, 1)
    return memory[:, 1].permute(0, 3, 1, 2)


def draw(spec: ViewSpec, count: int, seed: int = 0) -> PhotometricDraw:
    """Draw the parameters of `count` samples from numpy's uniform numbers."""
    return draw_photometric(spec, np.random.default_rng(seed).random((count, PHOTOMETRIC_DRAWS)))


def pack(drawn: PhotometricDraw) -> Tensor:
    """The table of a draw as a tensor."""
    return torch.from_numpy(pack_photometric(drawn))


def normalised(images: Tensor, spec: ViewSpec) -> Tensor:
    """Uint8 images without any photometry but the normalisation."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (spec.mean, spec.std))
    return (images.float() / 255 - mean) / std


def denormalised(views: Tensor, spec: ViewSpec) -> Tensor:
    """Views with values from 0 to 1 again."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (spec.mean, spec.std))
    return views * std + mean


def count_apart(ours: Tensor, theirs: Tensor, limit: float = ROUNDING) -> int:
    """Number of values that differ by more than `limit`."""
    return int(((ours - theirs).abs() > limit).sum())


def may_be_apart(spec: ViewSpec) -> int:
    """Values that rounding beside the threshold may invert in one renderer and not in the other."""
    return 3 if spec.solarise_p else 0


def adjusted_by_torchvision(image: Tensor, draw: PhotometricDraw, i: int, spec: ViewSpec) -> Tensor:
    """Apply the authors' sequence of operations, without the normalisation.

    image: floating (3, h, w), values from 0 to 1, of any precision. i: number of the draw's sample.
    """
    adjust = {
        BRIGHTNESS: (tv.adjust_brightness, draw.brightness),
        CONTRAST: (tv.adjust_contrast, draw.contrast),
        SATURATION: (tv.adjust_saturation, draw.saturation),
        HUE: (tv.adjust_hue, draw.hue),
    }
    if draw.jitter[i]:
        for code in draw.order[i]:
            operation, factors = adjust[int(code)]
            image = operation(image, float(factors[i]))
    if draw.grayscale[i]:
        image = tv.rgb_to_grayscale(image, num_output_channels=3)
    if draw.blur[i]:
        image = tv.gaussian_blur(image, [spec.blur_taps] * 2, [float(draw.sigma[i])] * 2)
    return tv.solarize(image, spec.solarise_threshold) if draw.solarise[i] else image
