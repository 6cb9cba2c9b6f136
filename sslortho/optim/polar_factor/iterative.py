"""Polar factors by iteration: Polar Express, Newton-Schulz, and the five steps of Muon.

`gram_iteration` applies the polynomials of the first two, `polynomials` has the coefficients.
"""

import torch
from torch import Tensor

from sslortho.optim.polar_factor.fused_iteration import iterate_fused
from sslortho.optim.polar_factor.gram_iteration import iterate, relative_lower_bound
from sslortho.optim.polar_factor.polynomials import (
    MUON_QUINTIC,
    Quintic,
    newton_schulz_schedule,
    polar_express_schedule,
)
from sslortho.optim.polar_factor.products import Multiply, multiply, multiply_in_half

MUON = ("muon", "muon_bf16")
"""Names of the methods that are Muon's."""

MUON_STEPS = 5
"""Steps of Muon (K. Jordan et al. 2024; torch.optim.Muon's `ns_steps`)."""

LOWER_BOUND = 1e-3
"""Singular value, relative to the largest, above which the iterative methods keep `TOLERANCE`."""

TOLERANCE = 1e-3
"""Largest distance from one that the iterative methods leave to singular values above `LOWER_BOUND`."""

LOWER_BOUND_FLOAT64 = 1e-12
"""`LOWER_BOUND` of float64 matrices: as far above float64's rounding noise as 1e-3 is above float32's."""

TOLERANCE_FLOAT64 = 1e-12
"""`TOLERANCE` of float64 matrices: two steps more than 1e-3, as each cubes the distance."""


def _iterate(
    matrices: Tensor, schedule: tuple[Quintic, ...], last: Multiply | None = None
) -> Tensor:
    """Apply a schedule in the precision of the matrices; on CUDA in few launches, the last step by `last`.

    float16 and not bfloat16 for that step: it keeps three bits more of numbers of about one, at the same speed.
    """
    if not matrices.is_cuda:
        return iterate(matrices, schedule)
    return iterate_fused(
        matrices, schedule, multiply, last=last if matrices.dtype == torch.float32 else None
    )


def _settle_promise(
    dtype: torch.dtype, lower_bound: float | None, tolerance: float | None
) -> tuple[float, float]:
    """The lower bound and the tolerance of an iterative method; None stands for those of the dtype."""
    exact = dtype == torch.float64
    if lower_bound is None:
        lower_bound = LOWER_BOUND_FLOAT64 if exact else LOWER_BOUND
    if tolerance is None:
        tolerance = TOLERANCE_FLOAT64 if exact else TOLERANCE
    return lower_bound, tolerance


def express_schedule(
    matrices: Tensor, lower_bound: float | None = None, tolerance: float | None = None
) -> tuple[Quintic, ...]:
    """The steps of `polar_express`; arguments are the same."""
    lower_bound, tolerance = _settle_promise(matrices.dtype, lower_bound, tolerance)
    lower = relative_lower_bound(lower_bound, min(matrices.shape[-2:]))
    schedule = polar_express_schedule(lower, max(tolerance, TOLERANCE))
    if tolerance < TOLERANCE:
        schedule += newton_schulz_schedule(1 - TOLERANCE, tolerance)
    return schedule


def polar_express(
    matrices: Tensor, lower_bound: float | None = None, tolerance: float | None = None
) -> Tensor:
    """Polar factor by the minimax iteration of Polar Express (arXiv 2505.16932).

    As many steps as bring every singular value above `lower_bound * sigma_max` within `tolerance`
    of one. Runs in the precision of its input; on CUDA the last step of float32, a small correction, takes
    its products in float16. Below `TOLERANCE` the steps are those of Newton-Schulz, which the minimax
    polynomials tend to there.

    Args:
        matrices: (..., rows, columns), float32 or float64, largest entry about one.
        lower_bound, tolerance: None for LOWER_BOUND and TOLERANCE, or for float64
            LOWER_BOUND_FLOAT64 and TOLERANCE_FLOAT64.
    """
    schedule = express_schedule(matrices, lower_bound, tolerance)
    return _iterate(matrices, schedule, last=multiply_in_half)


def newton_schulz(
    matrices: Tensor, lower_bound: float | None = None, tolerance: float | None = None
) -> Tensor:
    """Polar factor by the quintic Newton-Schulz iteration, which converges to it.

    Not Muon's five steps: those trade convergence for speed and leave singular values between about
    0.7 and 1.2. Takes and keeps what `polar_express` does, in more steps.
    """
    lower_bound, tolerance = _settle_promise(matrices.dtype, lower_bound, tolerance)
    lower = relative_lower_bound(lower_bound, min(matrices.shape[-2:]))
    return _iterate(matrices, newton_schulz_schedule(lower, tolerance))


def muon(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Muon's five steps: about 0.7 to 1.2 times the polar factor (K. Jordan et al. 2024).

    The same operations in the same order as torch.optim.Muon, which takes bfloat16. Each matrix is divided
    by its Frobenius norm; one singular value s of the result becomes p(p(p(p(p(s))))) with the quintic
    `MUON_QUINTIC`.

    Args:
        matrices: (..., rows, columns), norms in range and above zero.
        dtype: of the products.

    Returns:
        The same shape and the dtype of `matrices`. One row or column is no exception: its length
        becomes about 0.7.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.mT if tall else matrices
    x = wide.to(dtype).reshape(-1, *wide.shape[-2:])
    x = x / x.norm(dim=(-2, -1), keepdim=True)
    a, b, c = MUON_QUINTIC
    for _ in range(MUON_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.view(wide.shape).to(matrices.dtype)
    return x.mT if tall else x
