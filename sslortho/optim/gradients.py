"""Replace the gradients of parameters in place, as `clip_grad_norm_` does.

Plain loops, one matrix after another.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from sslortho.optim.components import from_matrices, is_matrix, to_matrices
from sslortho.optim.polar_factor import polar as polar_factor


def _matrix_gradients(parameters: Iterable[Tensor] | Tensor) -> Iterator[Tensor]:
    for parameter in [parameters] if isinstance(parameters, Tensor) else parameters:
        grad = parameter.grad
        if grad is None or not is_matrix(parameter) or not grad.numel():
            continue
        if grad.layout != torch.strided:
            raise ValueError(
                f"the gradient of a parameter of shape {tuple(parameter.shape)} is {grad.layout}: a "
                "sparse gradient has no nearest orthonormal matrix; use sparse=False, or put it in a "
                "parameter group with orth=False"
            )
        if grad.is_complex():
            raise ValueError(
                f"a parameter of shape {tuple(parameter.shape)} is complex; only real gradients are "
                "orthonormalised; put it in a parameter group with orth=False"
            )
        yield grad


@torch.no_grad()
def orthonormalise_(
    parameters: Iterable[Tensor] | Tensor,
    polar: str = "auto",
    *,
    components: int = 1,
    rank_tol: float | None = None,
) -> None:
    """Replace each gradient by its nearest orthonormal matrix, in place (arXiv 2202.07052, eq. 5).

    Args:
        parameters: those with one dimension or fewer, or without a gradient, are left alone.
        polar: method, see `sslortho.optim.polar`.
        components: matrices that the first dimension is split into (groups of a convolution).
        rank_tol: see `sslortho.optim.polar`.

    A gradient that holds a NaN or an infinity becomes all NaN, for the caller's non-finite policy to
    find; the others are handled as if it were not there.

    Raises:
        ValueError: a sparse or complex gradient, or `components` that does not divide the rows.
    """
    for grad in _matrix_gradients(parameters):
        factor = polar_factor(to_matrices(grad, components), polar, rank_tol=rank_tol)
        grad.copy_(from_matrices(factor, grad))


@torch.no_grad()
def normalise_(
    parameters: Iterable[Tensor] | Tensor, per: Literal["layer", "component"] = "layer"
) -> None:
    """Divide each gradient by its norm, in place: the paper's controls (arXiv 2202.07052, 4.1).

    Args:
        parameters: those with one dimension or fewer, or without a gradient, are left alone.
        per: "layer" makes the Frobenius norm of every gradient one (N-SGDM), "component" the norm
            of every row (CN-SGDM). Zero stays zero.
    """
    if per not in ("layer", "component"):
        raise ValueError(f"per={per!r} is not one of 'layer', 'component'")
    for grad in _matrix_gradients(parameters):
        matrix = to_matrices(grad)[0]
        matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
        dim = (-2, -1) if per == "layer" else (-1,)
        largest = matrix.abs().amax(dim=dim, keepdim=True)  # so that squares stay in range
        matrix = matrix / torch.where(largest > 0, largest, 1)
        norm = torch.linalg.vector_norm(matrix, dim=dim, keepdim=True)
        grad.copy_(from_matrices(matrix / torch.where(norm > 0, norm, 1), grad))
