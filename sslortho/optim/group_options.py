"""Numbers that an optimizer is given. torch's own checks let NaN, infinity and others through."""

import math
import numbers
from collections.abc import Mapping
from typing import Any

from torch import Tensor

NUMBERS = ("lr", "momentum", "weight_decay")
"""Options that are finite and not negative, whatever the optimizer. Adafactor's eps is a pair."""


def _is_right(value: Any) -> bool:
    if isinstance(value, Tensor):
        if value.is_meta:  # says nothing yet
            return True
        value = value.item() if value.numel() == 1 else math.nan
    return isinstance(value, numbers.Real) and 0 <= float(value) < math.inf


def check_numbers(options: Mapping[str, Any]) -> None:
    """Raise ValueError if a rate, momentum or decay is no finite number of 0 or more."""
    for name in NUMBERS:
        if name in options and not _is_right(options[name]):
            raise ValueError(f"{name}={options[name]!r} must be 0 or more, and finite")
