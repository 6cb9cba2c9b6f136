"""The nearest orthonormal matrix: `U V^T` of `U S V^T` (arXiv 2202.07052, equations 4 and 5).

`svd` is the reference. The others give the same answer:

| method          | exact on                                    | cost                                  |
|-----------------|---------------------------------------------|---------------------------------------|
| `svd`           | every direction above `rank_tol`            | an SVD                                |
| `gram_eigh`     | the same (its Gram matrix is in float64)    | two products and a small eigenproblem |
| `polar_express` | directions above `lower_bound * sigma_max`  | three products a step, fewest steps   |
| `newton_schulz` | the same                                    | three products a step                 |

A rank-deficient matrix has no unique nearest orthonormal matrix. What is returned is the partial
isometry: directions below `rank_tol * sigma_max` go to zero, so the answer is unique, turns
with the matrix, and zero stays zero. The iterative methods take no hard decision: a direction below
`lower_bound` comes out somewhere between 0 and 1.
"""

import difflib
import math
from collections.abc import Callable

import torch
from torch import Tensor

from sslortho.optim.minimax import Quintic, newton_schulz_schedule, polar_express_schedule

LOWER_BOUND = 1e-3
"""Relative singular value above which the iterative methods keep their promise."""

TOLERANCE = 1e-3
"""Largest distance from one of a singular value that the iterative methods leave above it."""


def default_rank_tol(rows: int, columns: int, dtype: torch.dtype) -> float:
    """Relative size under which a singular value is rounding noise: eps * max(rows, columns).

    The rule of numpy's `matrix_rank`, in the precision that the decomposition runs in.
    """
    return torch.finfo(dtype).eps * max(rows, columns)


def polar_svd(matrices: Tensor, rank_tol: float) -> Tensor:
    """`U V^T` of float32 or float64 matrices (..., rows, columns) by a singular value decomposition."""
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    keep = s >= rank_tol * s[..., :1]
    return (u * keep.unsqueeze(-2)) @ vh


def polar_gram_eigh(matrices: Tensor, rank_tol: float) -> Tensor:
    """`(A A^T)^(-1/2) A` from the eigenvalues of the small Gram matrix, in float64.

    Squaring the matrix squares its condition number, so float32 input is promoted: then directions
    down to 1e-7 of the largest are told from noise. For float64 input only those above about 1e-8.
    """
    a = matrices.double()
    gram = a @ a.mT if a.shape[-2] <= a.shape[-1] else a.mT @ a
    values, vectors = torch.linalg.eigh(gram)
    noise = torch.finfo(torch.float64).eps * gram.shape[-1]
    keep = values >= max(rank_tol**2, noise) * values[..., -1:]
    inverse_root = torch.where(keep, values, 1).rsqrt() * keep
    root = (vectors * inverse_root.unsqueeze(-2)) @ vectors.mT
    result = root @ a if a.shape[-2] <= a.shape[-1] else a @ root
    return result.to(matrices.dtype)


def apply_quintics(matrices: Tensor, schedule: tuple[Quintic, ...]) -> Tensor:
    """Apply odd quintics one after another to the singular values of matrices (..., rows, columns).

    The singular values must not exceed one at the start.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    for a, b, c in schedule:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def _iterate(
    matrices: Tensor,
    schedule: Callable[[float, float], tuple[Quintic, ...]],
    lower_bound: float,
    tolerance: float,
) -> Tensor:
    # The Frobenius norm bounds the largest singular value from above, and by no more than
    # sqrt(rank) too high, so that much is taken off the lower end of the interval.
    norm = torch.linalg.matrix_norm(matrices, keepdim=True)
    x = matrices / torch.where(norm > 0, norm, 1)
    lower = lower_bound / math.sqrt(min(matrices.shape[-2:]))
    return apply_quintics(x, schedule(lower, tolerance))


def polar_express(
    matrices: Tensor, lower_bound: float = LOWER_BOUND, tolerance: float = TOLERANCE
) -> Tensor:
    """Polar factor by the minimax iteration of Polar Express (arXiv 2505.16932).

    As many steps as bring every singular value above `lower_bound * sigma_max` within `tolerance`
    of one. Runs in the precision of its input.
    """
    return _iterate(matrices, polar_express_schedule, lower_bound, tolerance)


def newton_schulz(
    matrices: Tensor, lower_bound: float = LOWER_BOUND, tolerance: float = TOLERANCE
) -> Tensor:
    """Polar factor by the quintic Newton-Schulz iteration, which converges to it.

    Not Muon's five steps: those trade convergence for speed and leave singular values between about
    0.7 and 1.2. Same promise as `polar_express`, more steps.
    """
    return _iterate(matrices, newton_schulz_schedule, lower_bound, tolerance)


METHODS = ("auto", "svd", "gram_eigh", "polar_express", "newton_schulz")


def choose_method(matrices: Tensor) -> str:
    """What `auto` stands for.

    On the CPU the exact answer from the Gram matrix, and the SVD where float64 leaves the Gram
    matrix no room; elsewhere products alone, since decompositions are slow there.
    """
    if matrices.dtype == torch.float64:
        return "svd"
    return "gram_eigh" if matrices.device.type == "cpu" else "polar_express"


def check_method(method: str) -> None:
    """Raise ValueError unless `method` is one of METHODS."""
    if method not in METHODS:
        near = difflib.get_close_matches(str(method), METHODS, n=1, cutoff=0.3)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"polar={method!r} is not one of {', '.join(METHODS)}{hint}")


def check_rank_tol(rank_tol: float | None, method: str) -> None:
    """Raise ValueError for a rank_tol that is negative, or that `method` cannot honour."""
    if rank_tol is None:
        return
    if rank_tol < 0:
        raise ValueError(f"rank_tol={rank_tol} must be 0 or more")
    if method not in ("auto", "svd", "gram_eigh"):
        raise ValueError(f"rank_tol={rank_tol} has no effect on polar={method!r}; use 'svd'")
    if method == "gram_eigh" and rank_tol == 0:
        raise ValueError(
            f"rank_tol={rank_tol}: polar='gram_eigh' cannot tell the smallest directions from the "
            "rounding noise of the Gram matrix; use 'svd'"
        )


def _decompose(matrices: Tensor, method: str, rank_tol: float) -> Tensor:
    """One exact method, once more in float64 if LAPACK gives up, NaN if it gives up again."""
    decomposition = polar_svd if method == "svd" else polar_gram_eigh
    for attempt in (matrices, matrices.double()):
        try:
            return decomposition(attempt, rank_tol).to(matrices.dtype)
        except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
            continue
    return torch.full_like(matrices, torch.nan)


def polar(matrices: Tensor, method: str = "auto", *, rank_tol: float | None = None) -> Tensor:
    """Nearest orthonormal matrix of each of a batch of matrices (arXiv 2202.07052, equation 5).

    Args:
        matrices: real floating point, (..., rows, columns). Any scale: each matrix is divided by
            its largest entry first. float16 and bfloat16 are computed in float32.
        method: "auto", "svd", "gram_eigh", "polar_express" or "newton_schulz" (this module's table).
        rank_tol: singular values below `rank_tol` times the largest count as zero (svd and
            gram_eigh alone). None: eps * max(rows, columns). 0 keeps every direction, rounding
            noise too, as the paper's authors do.

    Returns:
        Same shape, dtype and device. Its rows are orthonormal where rows <= columns, its columns
        where rows >= columns, but for directions that count as zero. A matrix that holds a NaN or
        an infinity becomes all NaN and leaves the others of the batch alone.

    Raises:
        ValueError: an unknown method, fewer than two dimensions, a dtype that is not real floating
            point, or a rank_tol given to a method that takes none.
    """
    check_method(method)
    check_rank_tol(rank_tol, method)
    if matrices.ndim < 2 or not matrices.is_floating_point():
        raise ValueError(
            f"matrices must be real floating point with at least two dimensions, got {matrices.dtype}"
            f" of shape {tuple(matrices.shape)}; reshape to (..., rows, columns)"
        )
    if matrices.numel() == 0:
        return matrices.clone()
    if method == "auto":
        method = choose_method(matrices) if rank_tol is None else "svd"

    dtype = matrices.dtype if matrices.dtype == torch.float64 else torch.float32
    x = matrices.to(dtype)
    largest = x.abs().amax(dim=(-2, -1), keepdim=True)
    finite = largest.isfinite()
    # Masked, not skipped: a decomposition of a stack must not see a NaN, and looking would
    # synchronise the device.
    x = torch.where(finite & (largest > 0), x / largest, 0)
    if method == "polar_express":
        result = polar_express(x)
    elif method == "newton_schulz":
        result = newton_schulz(x)
    else:
        if rank_tol is None:
            rank_tol = default_rank_tol(x.shape[-2], x.shape[-1], dtype)
        result = _decompose(x, method, rank_tol)
    result = torch.where(largest > 0, result, 0)  # of a zero matrix no direction is its own
    return torch.where(finite, result, torch.nan).to(matrices.dtype)
