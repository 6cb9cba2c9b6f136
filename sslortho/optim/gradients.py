"""Replace the gradients of parameters in place, as `clip_grad_norm_` does."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sslortho.optim.components import (
    View,
    check_components,
    from_matrices,
    is_matrix,
    matrix_view,
    to_matrices,
)
from sslortho.optim.polar_factor.factor import REAL, check_method, check_rank_tol
from sslortho.optim.sharing import solve_shared, world_size
from sslortho.optim.polar_factor.stacks import Matrices, solve

WINDOW = 2**26
"""Entries of sharded gradients that are held in full at a time: 256 MiB of float32."""


def check_real(tensor: Tensor) -> None:
    """Raise ValueError for a parameter or gradient whose numbers have no nearest orthonormal matrix."""
    if tensor.dtype in REAL:
        return
    kind = "complex" if tensor.is_complex() else str(tensor.dtype).removeprefix("torch.")
    raise ValueError(
        f"a parameter of shape {tuple(tensor.shape)} is {kind}; only real gradients of 16 bits or more "
        "are orthonormalised; put it in a parameter group with orth=False"
    )


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
        check_real(grad)
        if grad.is_meta:
            raise ValueError(
                f"the gradient of a parameter of shape {tuple(parameter.shape)} is on the meta device, "
                "which holds no numbers; make the model on a real one (model.to_empty)"
            )
        yield grad


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, as FSDP2 makes them."""
    module = sys.modules.get("torch.distributed.tensor")  # slow to import; unloaded, there is none
    return module is not None and isinstance(tensor, module.DTensor)


def gather(sharded: Tensor) -> tuple[Tensor, Callable[[], None]]:
    """A DTensor in full, and what writes the full tensor back to this rank's part."""
    from torch.distributed.tensor import DTensor, Replicate

    assert isinstance(sharded, DTensor)
    full = sharded.full_tensor()

    def write_back() -> None:
        everywhere = [Replicate()] * sharded.device_mesh.ndim
        whole = DTensor.from_local(full, sharded.device_mesh, everywhere, run_check=False)
        sharded.copy_(whole.redistribute(placements=sharded.placements))  # cuts; sends nothing

    return full, write_back


@dataclass(frozen=True, eq=False)
class Gradient:
    """A gradient to be replaced, and how its matrices are to be solved."""

    grad: Tensor
    components: int = 1
    view: View = "rows"
    method: str = "auto"
    rank_tol: float | None = None

    @property
    def sharded(self) -> bool:
        """Whether this rank holds a part of it only."""
        return is_sharded(self.grad)

    def open(self) -> tuple[Matrices, list[Callable[[], None]]]:
        """The problem to solve, and what to do once it is solved. Gathers a sharded gradient."""
        closing = []
        grad = self.grad
        if self.sharded:
            grad, write_back = gather(grad)
            closing.append(write_back)
        stack = matrix_view(grad, self.components, self.view)
        if stack is None:
            stack = copy = to_matrices(grad, self.components, self.view)
            closing.insert(0, lambda: grad.copy_(from_matrices(copy, grad, self.view)))
        return Matrices(stack, stack, self.method, self.rank_tol), closing


def replace(
    gradients: Iterable[Gradient], solver: Callable[[Sequence[Matrices]], None] = solve
) -> None:
    """Replace gradients by their polar factors, where they lie.

    One that is listed twice is replaced once.
    """
    plain, sharded = [], []
    for gradient in {id(gradient.grad): gradient for gradient in gradients}.values():
        (sharded if gradient.sharded else plain).append(gradient)
    _replace_window(plain, solver)
    # gathered gradients are on every rank already, so nothing is gained by sharing them
    window: list[Gradient] = []
    entries = 0
    for gradient in sharded:
        if window and entries + gradient.grad.numel() > WINDOW:
            _replace_window(window, solve)
            window, entries = [], 0
        window.append(gradient)
        entries += gradient.grad.numel()
    if window:
        _replace_window(window, solve)


def _replace_window(
    gradients: list[Gradient], solver: Callable[[Sequence[Matrices]], None]
) -> None:
    opened = [gradient.open() for gradient in gradients]
    solver([problem for problem, _ in opened])  # with none too: other ranks may have some
    for _, closing in opened:
        for close in closing:
            close()


def collect(
    parameters: Iterable[Tensor] | Tensor,
    polar: str = "auto",
    components: int = 1,
    view: View = "rows",
    rank_tol: float | None = None,
) -> list[Gradient]:
    """The gradients that `orthonormalise_` would replace, checked."""
    check_method(polar)
    check_rank_tol(rank_tol, polar)
    gradients = [
        Gradient(grad, components, view, polar, rank_tol) for grad in _matrix_gradients(parameters)
    ]
    for gradient in gradients:
        check_components(gradient.grad, components, view)
    return gradients


@torch.no_grad()
def orthonormalise_(
    parameters: Iterable[Tensor] | Tensor,
    polar: str = "auto",
    *,
    components: int = 1,
    view: View = "rows",
    rank_tol: float | None = None,
    share: bool = False,
) -> None:
    """Replace each gradient by its nearest orthonormal matrix, in place (arXiv 2202.07052, eq. 5).

    Gradients of equal shape are solved together; on a CPU all of them over torch's threads.

    Args:
        parameters: those with one dimension or fewer, or without a gradient, are left alone. A
            gradient that is a DTensor (FSDP2) is gathered, solved on every rank, and cut again.
        polar: method, see `sslortho.optim.polar`.
        components: matrices that each gradient holds (groups of a convolution, heads).
        view: how they lie in it, see `sslortho.optim.components`.
        rank_tol: see `sslortho.optim.polar`.
        share: deal the matrices out to the ranks of the default process group, all of which must
            hold the same gradients (as DDP leaves them) and make the same call.

    A gradient that holds a NaN or an infinity becomes all NaN, for the caller's non-finite policy to
    find; the others are handled as if it were not there.

    Raises:
        ValueError: a sparse, complex or meta gradient, `components` that does not divide the rows, or a
            `share` that is neither True nor False.
    """
    if not isinstance(share, bool):
        raise ValueError(f"share={share!r} must be True or False")
    gradients = collect(parameters, polar, components, view, rank_tol)
    replace(gradients, solve_shared if share and world_size() > 1 else solve)


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
