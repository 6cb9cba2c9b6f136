"""`gram_iteration.iterate` for a GPU: the same mathematics in few launches, with products to choose.

The polynomial `a I + b G + c G^2` is one call, and what is symmetric is said to be, so that half of it need be
computed. `products` has the ways to multiply. `gram_iteration` is the reference beside it, and what a CPU runs.

Symmetric in exact arithmetic is not symmetric but for rounding: `F G` of two polynomials of one matrix is in
the first sense alone. Mirroring one triangle of it would turn the smallest directions ten times as far as
rounding does (`tests/optim/polar_factor/test_fused_iteration.py`). Gram matrices, squares and `F G F` are
symmetric in both senses.
"""

import torch
from torch import Tensor

from sslortho.optim.polar_factor.gram_iteration import SQUARE, split_stages
from sslortho.optim.polar_factor.polynomials import Quintic
from sslortho.optim.polar_factor.products import Multiply


def _normalise(gram: Tensor, multiply: Multiply) -> tuple[Tensor, Tensor, Tensor]:
    """`G / s`, `(G / s)^2` and `1 / sqrt(s)`, where sqrt(s) bounds A's largest singular value, G = A A^T.

    s is the Schatten norm of order 4 of G, see `gram_iteration.spectral_bound`. G is divided by its Frobenius
    norm before it is squared, so that no entry leaves float16. Zero stays zero.
    """
    norm = torch.linalg.matrix_norm(gram, keepdim=True)
    gram = gram / torch.where(norm > 0, norm, 1)
    square = multiply(gram, gram, symmetric=True)
    root = torch.linalg.matrix_norm(square, keepdim=True).sqrt()
    inverse = torch.where(root > 0, 1 / root, 0)
    scale = torch.where(norm > 0, inverse / norm, 0).sqrt()
    return gram * inverse, square * inverse.square(), scale


def _polynomial(gram: Tensor, square: Tensor, step: Quintic) -> Tensor:
    """`a I + b G + c G^2` where the square is at hand."""
    a, b, c = step
    factor = (b * gram).add_(square, alpha=c)
    factor.diagonal(dim1=-2, dim2=-1).add_(a)
    return factor


def _multiplier(
    gram: Tensor, steps: tuple[Quintic, ...], multiply: Multiply, square: Tensor | None = None
) -> Tensor:
    """The matrix P of `P A` for quintics applied to A, from `A A^T` and perhaps its square (number, n, n)."""
    product = None
    for i, (a, b, c) in enumerate(steps):
        if square is not None and i == 0:
            factor = _polynomial(gram, square, (a, b, c))
        else:
            factor = multiply(gram, gram, alpha=c, c=gram, beta=b, gamma=a, symmetric=True)
        product = factor if product is None else multiply(factor, product)
        if i < len(steps) - 1:
            gram = multiply(multiply(factor, gram), factor, symmetric=True)
    assert product is not None
    return product


def _apply(x: Tensor, step: Quintic, multiply: Multiply) -> Tensor:
    """Apply one quintic to the singular values of wide matrices."""
    a, b, c = step
    gram = multiply(x, x.mT, symmetric=True)
    factor = multiply(gram, gram, alpha=c, c=gram, beta=b, symmetric=True)
    return multiply(factor, x, c=x, beta=a)


def _correct(x: Tensor, step: Quintic, multiply: Multiply) -> Tensor:
    """Apply one quintic to nearly orthonormal rows as a small correction, see `gram_iteration._correct`."""
    a, b, c = step
    excess = multiply(x, x.mT, gamma=-1.0, symmetric=True)
    d = multiply(
        excess, excess, alpha=c, c=excess, beta=b + 2 * c, gamma=a + b + c - 1, symmetric=True
    )
    return multiply(d, x, c=x, beta=1.0)


def iterate_fused(
    matrices: Tensor,
    schedule: tuple[Quintic, ...],
    multiply: Multiply,
    *,
    last: Multiply | None = None,
) -> Tensor:
    """Apply odd quintics to the singular values of matrices over their `spectral_bound`.

    Args:
        matrices: (..., rows, columns), float32 or float64, largest entry about one, or zero.
        schedule: quintics for singular values up to one.
        multiply: computes the products.
        last: computes those of the last step, which is then taken as a correction, and may round more. None:
            the last step is as the others.

    Returns:
        The same as `gram_iteration.iterate`, (..., rows, columns), but for rounding.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.mT if tall else matrices
    x = wide.reshape(-1, *wide.shape[-2:])
    stages = split_stages(schedule if last is None else schedule[:-1])
    by_rows = x.shape[-1] < SQUARE * x.shape[-2]
    gram, square, scale = _normalise(multiply(x, x.mT, symmetric=True), multiply)
    if by_rows:
        x = x * scale
    for i, steps in enumerate(stages):
        if by_rows:
            for step in steps:
                x = _apply(x, step, multiply)
        elif i == 0:
            x = multiply(_multiplier(gram, steps, multiply, square) * scale, x)
        else:
            x = multiply(_multiplier(multiply(x, x.mT, symmetric=True), steps, multiply), x)
    if last is not None:
        x = _correct(x, schedule[-1], last)
    x = x.view(wide.shape)
    return x.mT if tall else x
