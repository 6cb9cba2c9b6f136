"""Derivative of the exact polar factor, which exists where that of its decomposition does not.

That of an SVD divides by differences of singular values. In the polar factor they cancel: of two kept
directions only the sum of their singular values counts. So orthogonal and permutation matrices have a gradient
too.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def differentiate(matrices: Tensor, rank_tol: float, change: Tensor) -> Tensor:
    """The derivative of the polar factor at `matrices` along `change`, all (..., rows, columns).

    A generalised matrix function takes the singular values s to f(s): here 1, or 0 below
    `rank_tol * sigma_max`. Its derivative (Daleckii and Krein's formula) multiplies the symmetric part of
    `U^T change V` by (f_i - f_j) / (s_i - s_j) and the antisymmetric one by (f_i + f_j) / (s_i + s_j), and what
    lies outside of both spaces by f_i / s_i. The map is its own adjoint, so it takes gradients back too.
    """
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    keep = s >= rank_tol * s[..., :1]
    f = keep.to(s.dtype)
    rows, columns = s.unsqueeze(-1), s.unsqueeze(-2)
    f_rows, f_columns = f.unsqueeze(-1), f.unsqueeze(-2)
    total, apart = rows + columns, rows - columns
    unlike = f_rows != f_columns  # a kept direction beside one that is not: their values differ
    anti = torch.where(total > 0, (f_rows + f_columns) / torch.where(total > 0, total, 1), 0)
    even = torch.where(unlike, (f_rows - f_columns) / torch.where(unlike, apart, 1), 0)
    inner = u.mT @ change @ vh.mT
    inner = (anti * (inner - inner.mT) + even * (inner + inner.mT)) / 2
    weights = torch.where(keep & (s > 0), f / torch.where(s > 0, s, 1), 0)
    beside = u.mT @ change
    beside = weights.unsqueeze(-1) * (beside - beside @ vh.mT @ vh)
    below = change @ vh.mT
    below = (below - u @ (u.mT @ below)) * weights.unsqueeze(-2)
    return u @ (inner @ vh + beside) + below @ vh


class ExactPolar(torch.autograd.Function):
    """An exact method, with the derivative of the polar factor in place of that of its own steps."""

    @staticmethod
    def forward(
        method: Callable[[Tensor, float], Tensor], matrices: Tensor, rank_tol: float
    ) -> Tensor:
        return method(matrices, rank_tol)

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Callable[..., Tensor], Tensor, float], output: Tensor
    ) -> None:
        _, matrices, ctx.rank_tol = inputs
        ctx.save_for_backward(matrices)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        (matrices,) = ctx.saved_tensors
        return None, differentiate(matrices, ctx.rank_tol, grads[0]), None
