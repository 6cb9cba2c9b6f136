"""The polar factor of one stack of matrices: `U V^T` of `U S V^T` (arXiv 2202.07052, eq. 4 and 5).

`polar` is the public function, `polar_stack` what `stacks` calls for gradients. `svd` is the reference;
the others give the same answer, but for the last two:

| method                 | exact on                                   | cost                                  |
|------------------------|--------------------------------------------|---------------------------------------|
| `svd`                  | every direction above `rank_tol`           | an SVD                                |
| `gram_eigh`            | the same (its Gram matrix is in float64)   | two products and a small eigenproblem |
| `polar_express`        | directions above `lower_bound * sigma_max` | four products, and small ones, fewest |
| `polar_express_fp16x3` | the same                                   | the same, on a GPU's tensor cores     |
| `newton_schulz`        | the same                                   | the same with more small ones         |
| `muon`                 | nothing; it is Muon's five steps           | ten products, and small ones          |
| `muon_bf16`            | the same, in bfloat16 as torch.optim.Muon  | the same                              |

Products are those of the large side. `decompositions` and `low_rank` have the first two methods; `iterative`,
`gram_iteration`, `polynomials` and `fast_path` have the others.

Muon's steps do not converge: singular values above 0.0015 of the matrix's Frobenius norm come out between
0.68 and 1.203, smaller ones below that. bfloat16 adds its rounding.

Errors, in the spectral norm, on directions above 1e-3 of the largest, of matrices whose singular values
reach from 1 down to 1e-6 (sides up to 900; measured against a float64 SVD; `tests/` holds them):

| method                           | float32 | float64 |
|----------------------------------|---------|---------|
| `svd`                            | 1e-4    | 1e-12   |
| `gram_eigh`                      | 1.2e-3  | 1e-9    |
| `polar_express`, `newton_schulz` | 1.2e-3  | 1e-10   |
| `polar_express_fp16x3`           | 1.3e-3  | 1e-10   |

The last is emulated: no GPU has run it. There the lengths of these directions, and the cosines between them
and where they belong, are within 1e-4. On a GPU `polar_express` takes its last step in float16, which costs
up to 2e-4 of both.

On a CPU `auto` is `gram_eigh` in float32 and `svd` in float64. `gram_eigh` in float32 is within 1e-6 while it
keeps a direction below 1e-4 of the largest, 1e-5 where the rank is low, and within 2e-4 if all are above 1e-3;
see `decompositions.ROOT_IN_FLOAT32` and `low_rank.LEFT_OUT`. Smaller directions are less certain whatever the
method: rounding the matrix turns one of relative size s by eps / s. In float64 the iterative methods are within
10 eps / s + 1e-10 down to s = 1e-12.

A rank-deficient matrix has no unique nearest orthonormal matrix. The result is the partial isometry:
directions below `rank_tol * sigma_max` go to zero. So the answer is unique, it is orthogonally
equivariant, and zero stays zero. The iterative methods take no hard decision: a direction below
`lower_bound` comes out somewhere between 0 and 1. The bound is 1e-3 in float32, 1e-12 in float64.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from sslortho.float32_products import ieee_float32
from sslortho.optim.polar_factor.decompositions import (
    default_rank_tol,
    is_recorded,
    polar_gram_eigh,
    polar_svd,
)
from sslortho.optim.polar_factor.derivative import ExactPolar
from sslortho.optim.polar_factor.fast_path import FP16X3, choose_iteration, polar_express_fp16x3
from sslortho.optim.polar_factor.iterative import MUON, muon, newton_schulz, polar_express
from sslortho.optim.polar_factor.parallel import run_on_threads
from sslortho.options import nearest

REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Dtypes of matrices that `polar` takes."""

CPU_STACK = 2**16
"""Most entries of matrices solved together on one CPU thread. In larger parts the cost of a call is
nothing beside the work, and stacking is a copy in vain; smaller parts keep all threads busy to the
end."""

GPU_STACK = 2**26
"""Most entries solved together elsewhere: 256 MiB of float32; the work takes about five times that."""

NATURAL = (1e-30, 1e30)
"""Squared norms of float32 matrices between which the float64 Gram matrix needs no scaling first."""


METHODS = (
    *("auto", "svd", "gram_eigh", "polar_express", FP16X3, "newton_schulz", "muon", "muon_bf16"),
)
"""Names of the methods of `polar`."""


def choose_method(matrices: Tensor) -> str:
    """The method that `auto` stands for.

    The SVD for float64, whose Gram matrix would need more digits than there are. Else on the CPU the
    exact answer from the Gram matrix, on other devices products alone: decompositions are slow there.
    """
    # Milliseconds of processor time a Gaussian matrix on one CPU thread (AMD EPYC, Zen 3, torch 2.14.1 with
    # MKL, others at work on the machine; 2026-11-30): where anything beats gram_eigh it is by little, or not
    # exact.
    #
    # | rows | columns | svd   | gram_eigh | polar_express | newton_schulz |
    # |    8 |      72 | 0.036 |     0.016 |         0.016 |         0.023 |
    # |   32 |      32 |  0.15 |      0.11 |         0.067 |          0.11 |
    # |   32 |     288 |  0.53 |      0.22 |          0.23 |          0.30 |
    # |  128 |     128 |   2.2 |       1.9 |           2.0 |           3.2 |
    # |  128 |    1152 |    13 |       4.0 |           5.0 |           6.8 |
    # |  512 |     512 |    60 |        61 |            79 |           150 |
    # |  512 |    4608 |   680 |       134 |           217 |           317 |
    # | 1024 |    2048 |  1010 |       471 |           839 |          1560 |
    #
    # On an H200, by arithmetic and not measured: float32 products reach 40 TFLOP/s, three float16 ones 263
    # (`costs`). `benchmarks/bench_optim.py` measures them there.
    if matrices.dtype == torch.float64:
        return "svd"
    return "gram_eigh" if matrices.device.type == "cpu" else choose_iteration(matrices)


def check_method(method: str) -> None:
    """Raise ValueError unless `method` is one of METHODS."""
    if method not in METHODS:
        raise ValueError(
            f"polar={method!r} is not one of {', '.join(METHODS)}{nearest(method, METHODS)}"
        )


def check_rank_tol(rank_tol: float | None, method: str) -> None:
    """Raise ValueError for a rank_tol out of its range, or that `method` cannot honour."""
    if rank_tol is None:
        return
    if not 0 <= rank_tol < 1:  # 1 would leave no direction
        raise ValueError(f"rank_tol={rank_tol} must be from 0 to below 1")
    if method not in ("auto", "svd", "gram_eigh"):
        raise ValueError(f"rank_tol={rank_tol} has no effect on polar={method!r}; use 'svd'")
    if method == "gram_eigh" and rank_tol == 0:
        raise ValueError(
            f"rank_tol={rank_tol}: polar='gram_eigh' cannot tell the smallest directions from the "
            "rounding noise of the Gram matrix; use 'svd'"
        )


def _decompose(matrices: Tensor, method: str, rank_tol: float) -> Tensor:
    """One exact method; again in float64 if LAPACK does not converge, NaN if that fails too."""
    decomposition = polar_svd if method == "svd" else polar_gram_eigh
    if is_recorded(matrices) and not torch.compiler.is_compiling():
        apply: Any = ExactPolar.apply
        decomposition = functools.partial(apply, decomposition)
    for attempt in (matrices, matrices.double()):
        try:
            return decomposition(attempt, rank_tol).to(matrices.dtype)
        except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
            continue
    return torch.full_like(matrices, torch.nan)


def _solve(x: Tensor, method: str, rank_tol: float | None) -> Tensor:
    """Polar factors of finite matrices (..., rows, columns) whose squares are in range."""
    if method in MUON:
        return muon(x, torch.bfloat16 if method == "muon_bf16" else x.dtype)
    if min(x.shape[-2:]) == 1:  # depthwise filters; exact whatever the method
        return x / torch.linalg.matrix_norm(x, keepdim=True)
    if method == "polar_express":
        return polar_express(x)
    if method == FP16X3:
        return polar_express_fp16x3(x)
    if method == "newton_schulz":
        return newton_schulz(x)
    if rank_tol is None:
        rank_tol = default_rank_tol(x.shape[-2], x.shape[-1], x.dtype)
    return _decompose(x, method, rank_tol)


def power_of_two(numbers: Tensor) -> Tensor:
    """The largest power of two that is not above each number; division by it does not round."""
    exponents = torch.frexp(numbers).exponent
    return torch.ldexp(torch.ones_like(numbers), exponents - 1)


def _needs_no_care(x: Tensor, method: str) -> bool:
    """Whether gram_eigh can take the matrices as they are, without scaling or masks.

    Only on the CPU, where reading numbers does not wait for a device.
    """
    if method != "gram_eigh" or not x.is_cpu or x.dtype != torch.float32:
        return False
    if torch.compiler.is_compiling():
        return False
    squares = torch.linalg.matrix_norm(x).square()
    return bool(((squares > NATURAL[0]) & (squares < NATURAL[1])).all())  # false for NaN


def polar_stack(matrices: Tensor, method: str, rank_tol: float | None) -> Tensor:
    """`polar` of one stack (..., rows, columns), method chosen and checked, on the calling thread.

    To be called within `ieee_float32`; compiled code cannot be, and needs the process's own float32
    precision to be "highest".
    """
    x = matrices.to(torch.promote_types(matrices.dtype, torch.float32))
    if _needs_no_care(x, method):
        return _solve(x, method, rank_tol).to(matrices.dtype)
    largest = torch.linalg.vector_norm(x, torch.inf, dim=(-2, -1), keepdim=True)
    finite = largest.isfinite()
    # Masked, not skipped: a decomposition of a stack must not see a NaN, and to look for one would
    # wait for the device.
    scale = power_of_two(largest) if method in MUON else largest
    x = torch.where(finite & (largest > 0), x / scale, 0)
    result = torch.where(largest > 0, _solve(x, method, rank_tol), 0)  # zero has no direction
    return torch.where(finite, result, torch.nan).to(matrices.dtype)


def entries_limit(matrices: Tensor) -> int:
    """Number of entries solved at a time where these matrices are; bounds the memory."""
    return CPU_STACK if matrices.is_cpu else GPU_STACK


def stack_limit(matrices: Tensor) -> int:
    """Number of matrices of a stack (number, rows, columns) solved at a time."""
    return max(1, entries_limit(matrices) // matrices[0].numel())


def resolve_method(matrices: Tensor, method: str, rank_tol: float | None) -> str:
    """The method that "auto" stands for, given a rank_tol or not; any other unchanged."""
    if method != "auto":
        return method
    chosen = choose_method(matrices)
    if rank_tol is None:
        return chosen
    # the Gram matrix tells directions above its rounding noise, whose length is the default tolerance
    rows, columns = matrices.shape[-2:]
    keeps = rank_tol >= default_rank_tol(rows, columns, torch.float32)
    return "gram_eigh" if chosen == "gram_eigh" and keeps else "svd"


def polar(matrices: Tensor, method: str = "auto", *, rank_tol: float | None = None) -> Tensor:
    """Nearest orthonormal matrix of each of a batch of matrices (arXiv 2202.07052, equation 5).

    Args:
        matrices: real floating point, (..., rows, columns). Any scale: each matrix is brought into
            range first. float16 and bfloat16 are computed in float32.
        method: "auto", "svd", "gram_eigh", "polar_express", "polar_express_fp16x3", "newton_schulz",
            "muon" or "muon_bf16" (this module's tables). The last two are about 0.7 to 1.2 times
            orthonormal. "auto": svd for float64, else gram_eigh on a CPU, polar_express_fp16x3 on an
            NVIDIA GPU of compute capability 8.0 or more with Triton, and polar_express on other devices
            and in compiled code. Where a rank_tol is given it is svd, but gram_eigh on a CPU for one that
            is not below the default. In float32 it keeps directions above 1e-3 of the largest within
            1.2e-3 of exact; "svd" keeps them within 1e-4.
        rank_tol: singular values below `rank_tol` times the largest count as zero (svd and
            gram_eigh alone). None: eps * max(rows, columns), at most 1e-3. 0 keeps every direction, rounding
            noise too, as the paper's authors do.

    Returns:
        The same shape, dtype and device. Rows are orthonormal where rows <= columns, columns where
        rows >= columns, except for directions that count as zero. A matrix that holds a NaN or an
        infinity becomes all NaN and leaves the others of the batch alone. Compiled code multiplies as
        torch.get_float32_matmul_precision() says, and is exact at "highest" alone. Differentiable where
        autograd is on and `matrices` asks for a gradient; on a CPU a batch is then solved on the calling
        thread.

    Raises:
        ValueError: an unknown method, fewer than two dimensions, a dtype that is not real floating
            point of 16 bits or more, a sparse or meta tensor, or a rank_tol given to a method that
            takes none.
    """
    check_method(method)
    check_rank_tol(rank_tol, method)
    if matrices.ndim < 2 or matrices.dtype not in REAL:
        raise ValueError(
            f"matrices must be real floating point with at least two dimensions, got {matrices.dtype}"
            f" of shape {tuple(matrices.shape)}; reshape to (..., rows, columns)"
        )
    if matrices.layout != torch.strided or matrices.is_meta:
        raise ValueError(
            f"matrices must be dense and on a device that holds numbers, got {matrices.layout} on "
            f"{matrices.device}"
        )
    if matrices.numel() == 0:
        return matrices.clone()
    method = resolve_method(matrices, method, rank_tol)
    if torch.compiler.is_compiling():  # ieee_float32 cannot be entered in compiled code
        with torch.autocast(matrices.device.type, enabled=False):
            return polar_stack(matrices, method, rank_tol)
    with ieee_float32([matrices.device.type]):
        if matrices.ndim == 2 or not matrices.is_cpu or is_recorded(matrices):
            return polar_stack(matrices, method, rank_tol)
        # the threads below work without autograd
        stack = matrices.flatten(end_dim=-3)
        result = torch.empty_like(stack)
        step = stack_limit(stack)

        def solve(start: int) -> None:
            part = slice(start, start + step)
            result[part] = polar_stack(stack[part], method, rank_tol)

        run_on_threads([functools.partial(solve, i) for i in range(0, len(stack), step)])
    return result.view(matrices.shape)
