"""Growth of a cost with size: a power law through measured points."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

LINEAR = 1.15
"""Largest exponent that counts as linear: noise and logarithms (sorting) stay below it."""


def fit_exponent(costs: Mapping[int, float]) -> float | None:
    """Slope of log cost over log size, by least squares.

    Small sizes cost what does not grow, which hides what does, so only the upper half of the sizes is taken,
    at least two.

    Returns:
        None where fewer than two sizes have a cost above 0.
    """
    known = sorted((size, cost) for size, cost in costs.items() if cost > 0)
    known = known[-max(2, (len(known) + 1) // 2) :]
    if len(known) < 2:
        return None
    sizes, values = np.log(np.array(known)).T
    return float(np.polyfit(sizes, values, 1)[0])


def predict(costs: Mapping[int, float], size: int) -> float | None:
    """Cost at a size: measured, or from the largest one by the fitted exponent, which is taken as 0 or more.

    Returns:
        None where there is nothing to fit to.
    """
    if size in costs:
        return costs[size]
    largest, exponent = max(costs), fit_exponent(costs)
    if exponent is None:
        return None if any(costs.values()) else 0.0
    return costs[largest] * (size / largest) ** max(0.0, exponent)


def describe(rows: Mapping[int, Mapping[str, Any]], target: int) -> dict[str, Any]:
    """Figures of a part for the table.

    Args:
        rows: size to the figures of `measure`.
        target: size that is asked about.

    Returns:
        "exponent" of time, "memory_exponent", "seconds" and "peak_bytes" at the target, "largest" size that
        was measured, whether the target is "fitted", and whether the time grows "beyond_linear".
    """
    seconds = {size: row["seconds"] for size, row in rows.items()}
    peaks = {size: float(row["peak_bytes"]) for size, row in rows.items()}
    exponent = fit_exponent(seconds)
    return {
        "exponent": exponent,
        "memory_exponent": fit_exponent(peaks),
        "seconds": predict(seconds, target),
        "peak_bytes": predict(peaks, target),
        "largest": max(rows),
        "fitted": target not in rows,
        "beyond_linear": exponent is not None and math.isfinite(exponent) and exponent > LINEAR,
    }
