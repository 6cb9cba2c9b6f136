"""The exact methods: the nearest orthonormal matrix by a decomposition.

`polar_svd` decomposes the matrix and is the reference; `polar_gram_eigh` the Gram matrix of its smaller
side, in float64, and is faster. `factor` calls them with finite matrices of moderate scale.
"""

import functools
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from sslortho.optim.polar_factor.low_rank import low_rank_eigh

PANEL_ROWS = 64
"""Rows of a Gram matrix computed at a time on the CPU. A symmetric matrix is known from its part below
the diagonal: narrower panels skip more of the rest, and slow the product down."""

PANEL_COLUMNS = 1024
"""Most columns converted to float64 at a time on the CPU."""

PANEL_ENTRIES = 2**18
"""Most entries converted at a time, so that the copy, 2 MiB, stays in the processor's cache."""

ROOT_IN_FLOAT32 = 1e-4
"""Ratio of the smallest to the largest singular value from which gram_eigh applies the inverse root in
float32. That costs an error of up to eps / ratio between directions, 1.2e-3 at worst; in float64 it is about
1e-7. The default rank_tol (eps * side) keeps every ratio above this where a side is over 838."""


MOST_RANK_TOL = 1e-3
"""Largest default of rank_tol, so that directions above a thousandth of the largest are kept in any matrix.
In float32 it counts for sides above 8,388. Rounding moves a singular value by far less, about eps times the
square root of the shorter side."""


def default_rank_tol(rows: int, columns: int, dtype: torch.dtype) -> float:
    """Relative size below which a singular value is rounding noise: eps * max(rows, columns), at most 1e-3.

    The rule of numpy's `matrix_rank`, in the precision that the decomposition runs in.
    """
    return min(torch.finfo(dtype).eps * max(rows, columns), MOST_RANK_TOL)


def polar_svd(matrices: Tensor, rank_tol: float) -> Tensor:
    """`U V^T` of float32 or float64 matrices (..., rows, columns) by a singular value decomposition.

    Directions below `rank_tol * sigma_max` go to zero. Equations 4 and 5 of arXiv 2202.07052.
    """
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    keep = s >= rank_tol * s[..., :1]
    return (u * keep.unsqueeze(-2)) @ vh


def is_recorded(*tensors: Tensor) -> bool:
    """Whether autograd records what happens to the tensors."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _is_one_on_cpu(matrices: Tensor) -> bool:
    """Whether (..., rows, columns) is one matrix on a CPU, and no compiler looks on."""
    one = matrices.is_cpu and matrices[..., 0, 0].numel() == 1
    return one and not torch.compiler.is_compiling()


def _lower_gram(matrices: Tensor) -> Tensor:
    """`A A^T` of (..., n, m) in float64, (..., n, n); above the diagonal it may hold anything."""
    n, m = matrices.shape[-2:]
    if n <= PANEL_ROWS or not _is_one_on_cpu(matrices):
        a = matrices.double()
        return a @ a.mT
    gram = matrices.new_zeros(n, n, dtype=torch.float64)
    width = min(m, PANEL_COLUMNS, max(1, PANEL_ENTRIES // n))
    panel = gram.new_empty(n, width)
    for columns in matrices.reshape(n, m).split(width, dim=-1):
        a = panel[:, : columns.shape[-1]].copy_(columns)
        for start in range(0, n, PANEL_ROWS):
            stop = min(start + PANEL_ROWS, n)
            gram[start:stop, :stop].addmm_(a[start:stop], a[:stop].mT)
    return gram.view(*matrices.shape[:-1], n)


@functools.cache
def _mkl_leaves_avx512_idle() -> bool:
    """Whether this CPU has AVX-512 and MKL will not use it.

    MKL takes its AVX-512 kernels on Intel's CPUs alone; oneDNN, also in torch, takes its own on all.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    cpus = Path("/proc/cpuinfo")
    return cpus.exists() and "AuthenticAMD" in cpus.read_text()


def _product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b`; a large one in float32 by oneDNN where that is faster (1.5 times on an AMD EPYC)."""
    one = a.is_cpu and a.dtype == torch.float32 and a[..., 0, 0].numel() == 1
    small = min(*a.shape[-2:], *b.shape[-2:]) < 128
    if not one or small or is_recorded(a, b) or not _mkl_leaves_avx512_idle():
        return a @ b
    rows, columns = (x.reshape(x.shape[-2:]) for x in (a, b.mT))
    packed = (x.contiguous().to_mkldnn() for x in (rows, columns))
    return functional.linear(*packed).to_dense().view(*a.shape[:-1], b.shape[-1])


def _roots_fit_float32(values: Tensor, keep: Tensor, rank_tol: float) -> bool:
    """Whether float32 is enough to apply an inverse root of these kept eigenvalues (..., n).

    Applying it in float32 rounds by eps * sigma_max / sigma_min, in every direction.
    """
    if rank_tol >= ROOT_IN_FLOAT32:
        return True
    if not values.is_cpu or torch.compiler.is_compiling():
        return False
    smallest = torch.where(keep, values, torch.inf).amin(dim=-1)
    return bool((smallest >= ROOT_IN_FLOAT32**2 * values[..., -1]).all())


def _eigenpairs(gram: Tensor, rank_tol: float, eps: float) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors of `A A^T` (..., n, n): (..., r) and (..., n, r).

    r is n, or the rank of a single matrix on a CPU if it is far smaller; the other eigenvalues count as zero.
    eps is the rounding of A's entries.
    """
    if _is_one_on_cpu(gram):
        n = gram.shape[-1]
        found = low_rank_eigh(gram.reshape(n, n), rank_tol, eps)
        if found is not None:
            values, vectors = found
            return values.view(*gram.shape[:-2], -1), vectors.view(*gram.shape[:-1], -1)
    return torch.linalg.eigh(gram)  # reads the lower triangle


def polar_gram_eigh(matrices: Tensor, rank_tol: float) -> Tensor:
    """`(A A^T)^(-1/2) A` from the eigenvalues of the small Gram matrix, in float64.

    Squaring the matrix squares its condition number, so float32 input is promoted: then directions
    down to 1e-7 of the largest are told from noise. For float64 input only those above about 1e-8 are.
    Directions below `rank_tol * sigma_max` go to zero.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    a = matrices.mT if tall else matrices
    eps = torch.finfo(matrices.dtype).eps
    values, vectors = _eigenpairs(_lower_gram(a), rank_tol, eps)
    noise = torch.finfo(torch.float64).eps * a.shape[-2]
    keep = values >= max(rank_tol**2, noise) * values[..., -1:]
    keep &= values > 0
    inverse_root = torch.where(keep, values, 1).rsqrt() * keep
    dtype = matrices.dtype if _roots_fit_float32(values, keep, rank_tol) else torch.float64
    vectors, inverse_root = vectors.to(dtype), inverse_root.to(dtype)
    scaled, a = vectors * inverse_root.unsqueeze(-2), a.to(dtype)
    if 2 * vectors.shape[-1] < vectors.shape[-2]:  # two thin products, no square one
        inner = _product(vectors.mT, a)
        result = _product(inner.mT, scaled.mT).mT if tall else _product(scaled, inner)
    else:
        root = scaled @ vectors.mT
        result = _product(a.mT, root).mT if tall else _product(root, a)
    result = result.to(matrices.dtype)
    return result.mT if tall else result
