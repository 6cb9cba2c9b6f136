"""Parameters of colour jitter, grayscale, blur and solarisation, drawn for each sample."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sslortho.augment.views import ViewSpec

PHOTOMETRIC_DRAWS = 13
"""Uniform numbers that the photometry of one sample takes."""

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
"""Codes of the four operations of the jitter."""

JITTER_COLUMN = 0
"""Column of the table of `pack_photometric`; so are the next ones."""
FACTOR_COLUMN = 1
"""First of four: brightness, contrast, saturation and hue, in the order of their codes."""
ORDER_COLUMN = 5
"""First of four: code of the operation that comes first, second, third, fourth."""
GRAYSCALE_COLUMN, BLUR_COLUMN, SIGMA_COLUMN, SOLARISE_COLUMN = 9, 10, 11, 12
PARAMETERS = 13
"""Number of columns of that table."""


@dataclass(frozen=True)
class PhotometricDraw:
    """Photometric parameters of a batch, on the host; each array is (batch,), `order` (batch, 4)."""

    jitter: NDArray[np.bool_]
    """Apply the colour jitter."""
    brightness: NDArray[np.float64]
    """Factor."""
    contrast: NDArray[np.float64]
    """Factor."""
    saturation: NDArray[np.float64]
    """Factor."""
    hue: NDArray[np.float64]
    """Shift in turns of the colour circle."""
    order: NDArray[np.int64]
    """Codes of the operations of the jitter: which comes first, second, third, fourth."""
    grayscale: NDArray[np.bool_]
    blur: NDArray[np.bool_]
    sigma: NDArray[np.float64]
    """Standard deviation of the blur in pixels."""
    solarise: NDArray[np.bool_]


def draw_photometric(spec: ViewSpec, uniform: NDArray[np.float64]) -> PhotometricDraw:
    """Draw parameters with torchvision's distributions.

    Args:
        spec: its probabilities, strengths and blur_sigma are used.
        uniform: (batch, PHOTOMETRIC_DRAWS) from (0, 1).
    """

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
    """Pack a draw into one table, (batch, PARAMETERS), for a kernel or a copy to a device.

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
