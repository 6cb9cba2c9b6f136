"""Odd quintic polynomials that drive singular values to one, in as few steps as possible.

`factor` asks for a schedule, a tuple of quintics; `gram_iteration` applies it.

Polar Express (arXiv 2505.16932): on [lower, upper] take the odd polynomial of degree five nearest
to one in the maximum norm; its values fill [1 - error, 1 + error]; take the best polynomial on that
interval next, and so on. The composition is the best of all compositions of that length (theorem
3.1 there).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch

from sslortho.optim.never_compiled import constant_when_compiled

Quintic = tuple[float, float, float]
"""(a, b, c) of a x + b x^3 + c x^5."""

NEWTON_SCHULZ: Quintic = (15 / 8, -10 / 8, 3 / 8)
"""The odd quintic that is flattest at one (p(1) = 1, p'(1) = p''(1) = 0): Newton-Schulz of order
three (Higham, Functions of Matrices, section 8.3), and the limit of `minimax_quintic` as the
interval closes on one."""

MUON_QUINTIC: Quintic = (3.4445, -4.7750, 2.0315)
"""Muon's quintic (K. Jordan et al. 2024): steepest at zero among those that stay within about 0.7 to 1.2.
It has no fixed point at one, so it does not converge."""

MARGIN = 1e-3
"""Relative rounding error before a step that a schedule tolerates. A minimax polynomial is steep beyond
its interval (26 at the upper end of the first), so values that rounding pushes out would be driven
further out at each step. Each interval is made this much wider; the paper's own remedy is to divide
by 1.01 (section 3.4 there)."""

MAX_STEPS = 60
"""Most steps of a schedule; ends the search for a tolerance that rounding keeps out of reach."""


def evaluate(polynomial: Quintic, x: float) -> float:
    """Value of an odd quintic at x."""
    a, b, c = polynomial
    return x * (a + x * x * (b + x * x * c))


def minimax_quintic(lower: float, upper: float) -> Quintic:
    """The odd quintic p that minimises max |1 - p(x)| over [lower, upper], 0 < lower <= upper.

    Remez exchange: the error of the optimum alternates at the two ends and at the two interior
    extrema of p (Polar Express, algorithm 3).
    """
    if 1 - lower / upper < 1e-3:  # the 4 x 4 system degenerates; the error is below 1e-10 here
        centre = (lower + upper) / 2
        a, b, c = NEWTON_SCHULZ
        return a / centre, b / centre**3, c / centre**5
    first, second = (3 * lower + upper) / 4, (lower + 3 * upper) / 4
    quintic, error = NEWTON_SCHULZ, math.inf
    exact: dict[str, Any] = {
        "dtype": torch.float64,
        "device": "cpu",
    }  # whatever the default device is
    for _ in range(100):
        x = torch.tensor([lower, first, second, upper], **exact)
        signs = torch.tensor([1.0, -1.0, 1.0, -1.0], **exact)
        system = torch.stack([x, x**3, x**5, signs], dim=1)
        a, b, c, new_error = torch.linalg.solve(system, torch.ones_like(x)).tolist()
        quintic = (a, b, c)
        if abs(new_error - error) <= 1e-14:
            break
        error = new_error
        root = math.sqrt(9 * b * b - 20 * a * c)
        first, second = (math.sqrt((-3 * b + sign * root) / (10 * c)) for sign in (-1, 1))
    return quintic


def _constant_schedule(
    compute: Callable[[float, float], tuple[Quintic, ...]],
) -> Callable[[float, float], tuple[Quintic, ...]]:
    """Cache results, and let torch.compile take them as constants instead of tracing the search."""
    cached = functools.lru_cache(maxsize=256)(compute)

    @functools.wraps(compute)
    def schedule(lower: float, tolerance: float) -> tuple[Quintic, ...]:
        return cached(lower, tolerance)

    return constant_when_compiled(schedule)


@_constant_schedule
def polar_express_schedule(lower: float, tolerance: float) -> tuple[Quintic, ...]:
    """Shortest minimax composition that maps [lower, 1] into [1 - tolerance, 1 + tolerance].

    Polar Express (arXiv 2505.16932, theorem 3.1), each interval widened by MARGIN.
    """
    steps: list[Quintic] = []
    upper = 1.0
    while max(1 - lower, upper - 1) > tolerance and len(steps) < MAX_STEPS:
        lower, upper = lower / (1 + MARGIN), upper * (1 + MARGIN)
        quintic = minimax_quintic(lower, upper)
        steps.append(quintic)
        lower = min(evaluate(quintic, lower), evaluate(quintic, upper))
        upper = 2 - lower
    return tuple(steps)


@_constant_schedule
def newton_schulz_schedule(lower: float, tolerance: float) -> tuple[Quintic, ...]:
    """The fixed quintic of `NEWTON_SCHULZ`, repeated until [lower, 1] maps to 1 +- tolerance."""
    steps = 0
    while 1 - lower > tolerance and steps < MAX_STEPS:
        lower = evaluate(NEWTON_SCHULZ, lower)
        steps += 1
    return (NEWTON_SCHULZ,) * steps
