"""Pixels of arrays and tensors: any layout and type, made uint8 with three channels by one rule.

uint8 values stay. Of others one value is white and becomes 255: 65,535 for uint16, True for bool. For
floating point and other integers the largest value of the set tells: 1 where no value is larger, 255
above 128, 65,535 above 32,768; else that value itself, such as 16 for scikit-learn's digits.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

KNOWN_WHITES = (1.0, 255.0, 65535.0)
"""Values that are white in floating point and integers."""

CHANNELS = (1, 3)
"""Numbers of channels that images may have."""

BLOCK = 1 << 26
"""Values that are looked at together."""


@dataclass(frozen=True)
class PixelRule:
    """Way from values of an array to pixels."""

    white: float | None
    """Value that becomes 255; None: values are kept."""
    channels: int | None
    """Axis of the channels of one image, 0 or -1; None if it has none."""

    def apply(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Pixels (height, width, 3), contiguous, of one image in the layout of the rule."""
        if self.channels == 0:
            values = np.moveaxis(values, 0, -1)
        elif self.channels is None:
            values = values[..., None]
        pixels = scale_to_bytes(values, self.white)
        if pixels.shape[-1] == 1:
            pixels = np.repeat(pixels, 3, axis=-1)
        return np.array(pixels, order="C")  # writable, and never the caller's own


def scale_to_bytes(values: NDArray[Any], white: float | None) -> NDArray[np.uint8]:
    """Values scaled so that `white` becomes 255, and rounded; None: as they are."""
    if white is None:
        return values.astype(np.uint8, copy=False)
    scaled = values.astype(np.float32) / np.float32(white / 255)
    return scaled.round().clip(0, 255).astype(np.uint8)


def find_channels(shape: tuple[int, ...], first: bool, name: str) -> int | None:
    """Axis of the channels of an image, 0 or -1; None for (height, width).

    Args:
        shape: of one image.
        first: which axis it is where both could be.
        name: of the images, for the message.

    Raises ValueError for another number of axes, or of channels than 1 or 3.
    """
    if len(shape) == 2:
        return None
    if len(shape) != 3:
        raise ValueError(
            f"{name} has images of shape {shape}; they must be (height, width), (height, width, channels) "
            "or (channels, height, width)"
        )
    axes = [axis for axis in ((0, -1) if first else (-1, 0)) if shape[axis] in CHANNELS]
    if not axes:
        least = min(shape[0], shape[-1])
        raise ValueError(
            f"{name} has images of shape {shape}, which have {least} channels and not 1 or 3; views can be "
            "made of 3 alone: choose 3 of them (of RGBA all but the last)"
        )
    return axes[0]


def find_white(values: NDArray[Any], name: str) -> float | None:
    """Value of a whole set that becomes 255; None for uint8, whose values are kept.

    Raises ValueError for values that are negative, not finite, complex or no numbers.
    """
    kind = values.dtype.kind
    if values.dtype == np.uint8:
        return None
    if kind == "b" or is_uint16(values.dtype):
        return 1.0 if kind == "b" else 65535.0
    if kind not in "iuf":
        raise ValueError(f"{name} holds {values.dtype}, which are no pixels; give numbers")
    low, high = _find_range(values)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"{name} holds values that are not finite; remove those images")
    if low < 0:
        raise ValueError(
            f"{name} holds values from {low:g} to {high:g}; pixels are 0 or more: undo what made them "
            "negative, such as a normalisation"
        )
    return choose_white(high)


def is_uint16(dtype: np.dtype) -> bool:
    """Whether it is uint16, of either byte order: FITS files and some TIFFs have the other one."""
    return dtype.kind == "u" and dtype.itemsize == 2


def choose_white(largest: float) -> float:
    """White of values that go up to `largest`, by the rule of this module."""
    if largest <= 1:
        return 1.0
    return next((white for white in KNOWN_WHITES if white / 2 < largest <= white), largest)


def _find_range(values: NDArray[Any]) -> tuple[float, float]:
    """Smallest and largest value, block by block, so that a file in memory need not fit there."""
    rows = max(1, BLOCK // max(1, values[0].size))
    parts = [values[start : start + rows] for start in range(0, len(values), rows)]
    return (
        float(np.min([np.min(part) for part in parts])),  # which Python's min would lose a NaN in
        float(np.max([np.max(part) for part in parts])),
    )


def describe_rule(rule: PixelRule, dtype: np.dtype, channels: int) -> str:
    """The rule in words; empty where pixels are taken as they are."""
    done = []
    if rule.white == 255:
        done.append(f"{dtype} values are taken as 0 to 255, black to white")
    elif rule.white is not None:
        done.append(f"{dtype} values are scaled so that {rule.white:g} becomes 255")
    if channels == 1:
        done.append("the one channel is repeated to three")
    return " and ".join(done)
