"""The iterative methods: polynomials of a matrix, worked out on the Gram matrix of its small side.

`factor` calls `iterate` with a schedule of `polynomials`.

A composition of odd polynomials applied to the singular values of A (n x m, n <= m) is `P A` for one
symmetric n x n matrix P, and P follows from `A A^T` alone. So a stage of any number of steps touches
the large side twice: to form the Gram matrix, and to apply P.

Rounding limits a stage. A Gram matrix carries an error of about `eps * sigma_max^2`, so a
tiny eigenvalue may come out negative, and the steps, which multiply small eigenvalues by their slope
squared, would blow it up. Hence `STAGE_GAIN`: the slopes of one stage multiply to no more, and the
next stage starts from a new Gram matrix of what the last has made of A.
"""

import math

import torch
from torch import Tensor

from sslortho.optim.polar_factor.polynomials import Quintic

STAGE_GAIN = 256.0
"""Largest product of slopes at zero in one stage: an eigenvalue of -1e-6, ten times what rounding in
float32 makes, grows to -0.07, where the polynomials are still tame."""

SQUARE = 1.5
"""Up to this aspect ratio steps on the matrix itself take fewer products than on its Gram matrix: k
steps cost `2 k m/n + k` products of n x n matrices against `2 m/n + 4 k - 3`."""


def apply_quintics(matrices: Tensor, schedule: tuple[Quintic, ...]) -> Tensor:
    """Apply odd quintics one after another to the singular values of matrices (..., rows, columns).

    The plain reference: each step works on the whole matrix. Singular values must not exceed one.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    for a, b, c in schedule:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def spectral_bound(square: Tensor) -> Tensor:
    """Upper bound of the largest singular value of A from `(A A^T)^2`, (..., 1, 1).

    The Schatten norm of order 8, `||(A A^T)^2||_F^(1/4)`: at most n^(1/8) times too large (2.2 for n =
    512), where the Frobenius norm may be n^(1/2) times (22.6). Each step multiplies small singular
    values by about 4, so the tighter bound saves one or two steps.
    """
    return torch.linalg.matrix_norm(square, keepdim=True).sqrt().sqrt()


def split_stages(schedule: tuple[Quintic, ...]) -> list[tuple[Quintic, ...]]:
    """Cut a schedule where the slopes at zero would multiply to more than STAGE_GAIN."""
    stages: list[list[Quintic]] = [[]]
    gain = 1.0
    for step in schedule:
        if stages[-1] and gain * step[0] > STAGE_GAIN:
            stages.append([])
            gain = 1.0
        stages[-1].append(step)
        gain *= step[0]
    return [tuple(stage) for stage in stages]


def _multiplier(gram: Tensor, steps: tuple[Quintic, ...], square: Tensor | None = None) -> Tensor:
    """The matrix P of `P A` for quintics applied to A, from `A A^T` and its square (..., n, n)."""
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    product = None
    for i, (a, b, c) in enumerate(steps):
        if square is None or i:
            square = gram @ gram
        factor = a * identity + b * gram + c * square
        product = factor if product is None else factor @ product
        if i < len(steps) - 1:
            gram = factor @ gram @ factor
    assert product is not None
    return product


def _correct(x: Tensor, step: Quintic, dtype: torch.dtype) -> Tensor:
    """Apply one quintic to nearly orthonormal rows as a small correction, its products in `dtype`.

    `x + D x` with `D = (a - 1) I + b G + c G^2`: rounding in `dtype` is relative to D, not to x.
    """
    a, b, c = step
    low = x.to(dtype)
    gram = (low @ low.mT).to(x.dtype)
    identity = torch.eye(gram.shape[-1], dtype=x.dtype, device=x.device)
    excess = gram - identity  # D in terms of G - I, so that its rounding errors are small too
    d = (a + b + c - 1) * identity + (b + 2 * c) * excess
    d = d + c * (excess.to(dtype) @ excess.to(dtype)).to(x.dtype)
    return x + (d.to(dtype) @ low).to(x.dtype)


def iterate(
    matrices: Tensor,
    schedule: tuple[Quintic, ...],
    *,
    half: torch.dtype | None = None,
) -> Tensor:
    """Apply odd quintics to the singular values of `matrices / spectral_bound`, by Gram matrices.

    Args:
        matrices: (..., rows, columns), float32 or float64, largest entry about one.
        schedule: quintics for singular values up to one.
        half: a half precision for the products of the last step, which only corrects.

    Returns:
        The same as `apply_quintics`, (..., rows, columns); the large side is touched twice a stage.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    last = schedule[-1:] if half else ()
    stages = split_stages(schedule[: len(schedule) - len(last)])
    by_rows = x.shape[-1] < SQUARE * x.shape[-2]
    gram = x @ x.mT
    square = gram @ gram
    bound = spectral_bound(square)
    scale = torch.where(bound > 0, 1 / bound, 0)
    for i, steps in enumerate(stages):
        if by_rows:
            x = apply_quintics(x * scale if i == 0 else x, steps)
        elif i == 0:
            x = (_multiplier(gram * scale**2, steps, square * scale**4) * scale) @ x
        else:
            x = _multiplier(x @ x.mT, steps) @ x
    for step in last:
        assert half is not None
        x = _correct(x, step, half)
    return x.mT if tall else x


def relative_lower_bound(lower_bound: float, size: int) -> float:
    """Smallest that `lower_bound * sigma_max` can be after division by `spectral_bound`.

    Args:
        lower_bound: relative to the largest singular value.
        size: n, the smaller side of the matrix.
    """
    return lower_bound / math.pow(size, 1 / 8)
