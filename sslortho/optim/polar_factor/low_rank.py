"""Eigenvalues of a Gram matrix of low rank, at the price of a smaller matrix.

A convolution's gradient is a sum over the images and the places of a batch, and a linear layer's one over the
rows of its input, so the rank is at most their number. In a ResNet-50 that sees 64 images of 64 pixels,
gradients of 512 rows have rank 255. The decomposition of the whole Gram matrix would spend most of its time on
directions that are rounding noise.

`decompositions` asks for them here and takes the whole matrix where there are none. The plain reference is
`torch.linalg.eigh` of the whole matrix.
"""

import torch
from torch import Tensor

SMALLEST_SIDE = 256
"""Rows from which the search for a low rank is worth its time."""

LEADING = 2 / 3
"""Share of the columns of the Cholesky factor that are computed. More of them find more ranks and cost more
where the rank is full: 2 of 66 ms at 512 rows, 1,024 columns."""

MOST = 0.6
"""Largest rank, as a share of the rows, that is taken. Near LEADING the first rows rarely hold it all."""

LEFT_OUT = 0.5
"""Largest sum of the eigenvalues left out, relative to the largest one, in units of `eps * rank_tol` with the
eps of the matrix: once of the columns that are not computed, and once of those that are. A direction of
relative size s moves by less than `2 * LEFT_OUT * eps * rank_tol / s^2`: as much as rounding the matrix does at
s = rank_tol, and less beyond."""

SHIFT = 32.0
"""Multiple of the identity that keeps a singular matrix positive definite in rounding, times eps and the
largest entry. The factorisation rounds by about eps times that entry."""


def low_rank_factor(gram: Tensor, left_out: float) -> Tensor | None:
    """L (n, r) with `gram - L L^T` positive semidefinite but for SHIFT, of a trace below `2 * left_out` times
    the largest eigenvalue.

    L holds columns of the Cholesky factor C. `C C^T` is the sum of `c c^T` over the columns c, so leaving out
    one of them takes `|c|^2` from the trace.

    Args:
        gram: (n, n), float64, positive semidefinite; read up to its diagonal.
        left_out: relative to the largest eigenvalue.

    Returns:
        L, or None if no r up to MOST * n was found.
    """
    n = len(gram)
    leading = int(LEADING * n)
    diagonal = gram.diagonal()
    first = gram[:leading, :leading].clone()
    first.diagonal().add_(SHIFT * torch.finfo(gram.dtype).eps * diagonal.max())
    first, failed = torch.linalg.cholesky_ex(first)
    squares = first.square().sum(dim=0)
    if failed or _rank(squares, left_out) > MOST * n:
        return None
    rest = torch.linalg.solve_triangular(first.mT, gram[leading:, :leading], upper=True, left=False)
    squares += rest.square().sum(dim=0)
    behind = diagonal[leading:].sum() - rest.square().sum()
    if behind.abs() > left_out * squares.max():
        return None
    rank = _rank(squares, left_out)
    columns = squares.argsort(descending=True)[:rank]
    return torch.cat([first[:, columns], rest[:, columns]])


def _rank(squares: Tensor, left_out: float) -> int:
    """How many columns of these squared lengths stay if the sum of the others is small.

    The longest squared column is a lower bound of the largest eigenvalue.
    """
    ascending = squares.sort().values
    return int((ascending.cumsum(0) > left_out * ascending[-1]).sum())


def low_rank_eigh(gram: Tensor, rank_tol: float, eps: float) -> tuple[Tensor, Tensor] | None:
    """Eigenvalues that count, ascending, and their eigenvectors: (r,) and (n, r), where r is far below n.

    With `gram = L L^T`, an eigenvector w of the small `L^T L` gives one of the Gram matrix: `L w`, of length
    sqrt(eigenvalue).

    Args:
        gram: (n, n), float64, `A A^T`; read up to its diagonal.
        rank_tol: singular values of A that count, relative to the largest; their squares are the eigenvalues.
        eps: relative rounding of A's entries.

    Returns:
        None if the rank is not low, or if what may be left out is too near to the rounding of float64.
    """
    n, left_out = len(gram), LEFT_OUT * eps * rank_tol
    if n < SMALLEST_SIDE or left_out < n * torch.finfo(gram.dtype).eps:
        return None
    factor = low_rank_factor(gram, left_out)
    if factor is None:
        return None
    values, vectors = torch.linalg.eigh(factor.mT @ factor)
    counts = int((values >= rank_tol**2 * values[-1]).sum())
    values, vectors = values[-counts:], vectors[:, -counts:]
    return values, factor @ (vectors * values.rsqrt())
