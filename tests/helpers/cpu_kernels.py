"""Images and fused renders for tests of the CPU kernels, and what they are compared with."""

import numpy as np
import torch

from sslortho.augment import ViewSpec
from sslortho.augment.cpu.view_kernel import render_crops, view_settings
from sslortho.augment.draws.photometric import PhotometricDraw, pack_photometric

ROUNDING = 0.5 + 1e-3
"""Grey levels by which a pixel that is rounded once may differ from the exact one."""


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A random image, uint8 (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def scene(height: int, width: int) -> np.ndarray:
    """Coloured waves with a little noise, closer to a photograph than noise; (height, width, 3)."""
    y, x = np.mgrid[0 : 9 : height * 1j, 0 : 11 : width * 1j][..., None]
    phase = 2 * np.arange(3)
    waves = 128 + 60 * np.sin(2 * y + phase) + 50 * np.cos(3 * x - y + phase)
    return (
        (waves + np.random.default_rng(0).normal(0, 8, waves.shape)).clip(0, 255).astype(np.uint8)
    )


def as_tensor(image: np.ndarray) -> torch.Tensor:
    """(height, width, 3) as a float tensor (3, height, width)."""
    return torch.from_numpy(image).permute(2, 0, 1).float()


def window_of(top: int, left: int, height: int, width: int, flip: bool = False) -> list[float]:
    """The window of a box."""
    return [top, height, top, top + height, left, width, left, left + width, flip]


def render_fused(
    crops: np.ndarray, drawn: PhotometricDraw, spec: ViewSpec, last: bool
) -> torch.Tensor:
    """Render crops by the fused kernel, in either memory format, to (batch, 3, size, size)."""
    (settings,) = view_settings((spec,))
    out = np.full((len(crops), crops[0].size), np.nan, np.float32)
    render_crops(crops, pack_photometric(drawn), settings, last, out)
    size = spec.crop_size
    flat = torch.from_numpy(out)
    return (
        flat.view(-1, size, size, 3).permute(0, 3, 1, 2) if last else flat.view(-1, 3, size, size)
    )
