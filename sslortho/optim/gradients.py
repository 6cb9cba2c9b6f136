"""Orthonormalise or normalise gradients in place, as `torch.nn.utils.clip_grad_norm_` clips them."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sslortho.optim.aliasing import separate_gradients
from sslortho.optim.components import (
    View,
    check_components,
    from_matrices,
    is_matrix,
    matrix_view,
    to_matrices,
)
from sslortho.optim.polar_factor import REAL, Matrices, check_method, check_rank_tol, solve
from sslortho.optim.precision import in_float32
from sslortho.optim.sharing import solve_shared, world_size

WINDOW = 2**26
"""Entries of sharded gradients that are held in full at a time: 256 MiB of float32."""


def check_real(tensor: Tensor) -> None:
    """Raise ValueError unless a parameter or gradient is of real numbers of 16 bits or more."""
    if tensor.dtype in REAL:
        return
    kind = "complex" if tensor.is_complex() else str(tensor.dtype).removeprefix("torch.")
    raise ValueError(
        f"a parameter of shape {tuple(tensor.shape)} is {kind}; only real gradients of 16 bits or more "
        "are orthonormalised; put it in a parameter group with orth=False"
    )


def split_written(parameters: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters whose gradients hold matrices, which are written to, and the others."""
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for parameter in parameters:
        sides[0 if is_matrix(parameter) else 1].append(parameter)
    return sides


def _matrix_gradients(parameters: Iterable[Tensor] | Tensor) -> Iterator[Tensor]:
    """Yield the gradient of each parameter that holds a matrix; raise ValueError for an unusable one."""
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
    module = sys.modules.get("torch.distributed.tensor")  # slow to import; no DTensor exists before
    return module is not None and isinstance(tensor, module.DTensor)


def sum_partial_gradients(parameters: Iterable[Tensor]) -> None:
    """Sum gradients whose parts are sums yet to be added over ranks (Partial), as torch's optimizers do.

    Tensor parallelism leaves such gradients to replicated parameters. The sum becomes the gradient.
    """
    for parameter in parameters:
        grad: Any = parameter.grad
        if grad is None or not is_sharded(grad) or not any(p.is_partial() for p in grad.placements):
            continue
        from torch.distributed.tensor import Replicate

        placements = [Replicate() if p.is_partial() else p for p in grad.placements]
        parameter.grad = grad.redistribute(placements=placements)


def gather(sharded: Tensor) -> tuple[Tensor, Callable[[], None]]:
    """A DTensor in full, and a function that writes the full tensor back to this rank's part."""
    from torch.distributed.tensor import DTensor, Replicate

    assert isinstance(sharded, DTensor)
    full = sharded.full_tensor()

    def write_back() -> None:
        everywhere = [Replicate()] * sharded.device_mesh.ndim
        whole = DTensor.from_local(full, sharded.device_mesh, everywhere, run_check=False)
        sharded.copy_(whole.redistribute(placements=sharded.placements))  # cuts, sends nothing

    return full, write_back


@dataclass(frozen=True, eq=False)
class Gradient:
    """A gradient to be replaced, and how its matrices are to be solved."""

    grad: Tensor
    components: int = 1
    """Number of matrices."""
    view: View = "rows"
    """See `components`."""
    method: str = "auto"
    """See `sslortho.optim.polar`."""
    rank_tol: float | None = None
    """See `sslortho.optim.polar`."""
    finish: Callable[[Tensor], None] | None = None
    """Called with the polar factors (number, rows, columns), to change them in place; on every rank."""

    @property
    def sharded(self) -> bool:
        """Whether this rank holds only a part of it."""
        return is_sharded(self.grad)

    def open(self) -> tuple[Matrices, list[Callable[[], None]]]:
        """The problem to solve, and functions to call once it is solved. Gathers a sharded gradient."""
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
    """Replace gradients by their polar factors, in place; one that is listed twice only once.

    Args:
        gradients: sharded ones are gathered, at most WINDOW entries at a time.
        solver: solves those that are not sharded; called on every rank even with none.
    """
    plain, sharded = [], []
    for gradient in {id(gradient.grad): gradient for gradient in gradients}.values():
        (sharded if gradient.sharded else plain).append(gradient)
    _replace_window(plain, solver)
    # Every rank has the full gradient and solves it. They could share the work as others do, and do not yet.
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
    """Replace gradients that are held in full at the same time."""
    opened = [gradient.open() for gradient in gradients]
    solver([problem for problem, _ in opened])  # with none too: other ranks may have some
    for gradient, (problem, closing) in zip(gradients, opened, strict=True):
        if gradient.finish is not None:
            gradient.finish(problem.out)
        for close in closing:
            close()


def collect(
    parameters: Iterable[Tensor] | Tensor,
    polar: str = "auto",
    components: int = 1,
    view: View = "rows",
    rank_tol: float | None = None,
) -> list[Gradient]:
    """The gradients that `orthonormalise_` would replace; arguments and errors are the same."""
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

    Gradients of equal shape are solved together; on a CPU on several threads.

    Args:
        parameters: those with one dimension or fewer, or without a gradient, are left alone. A
            gradient that is a DTensor (FSDP2) is gathered, solved on every rank, and cut again.
        polar: the method, see `sslortho.optim.polar`.
        components: number of matrices in each gradient (groups of a convolution, heads).
        view: "rows", "columns" or "transposed": how they lie in it, see `sslortho.optim.components`.
        rank_tol: see `sslortho.optim.polar`.
        share: deal the matrices out to the ranks of the default process group, all of which must
            hold the same gradients (as DDP leaves them) and make the same call.

    A gradient that is expanded, or shares memory with another one or a parameter, is copied first; the copy
    becomes the parameter's gradient.

    A matrix that holds a NaN or an infinity becomes all NaN, for the caller to find; the others are
    replaced as if it were not there.

    Raises:
        ValueError: a sparse, complex or meta gradient, `components` that does not divide the rows, an
            unknown `polar` or `view`, a `rank_tol` that `polar` does not take, or a `share` that is
            neither True nor False.
    """
    if not isinstance(share, bool):
        raise ValueError(f"share={share!r} must be True or False")
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    sum_partial_gradients(parameters)
    separate_gradients(*split_written(parameters))
    gradients = collect(parameters, polar, components, view, rank_tol)
    replace(gradients, solve_shared if share and world_size() > 1 else solve)


@torch.no_grad()
def normalise_(
    parameters: Iterable[Tensor] | Tensor, per: Literal["layer", "component"] = "layer"
) -> None:
    """Divide each gradient by its norm, in place: the controls of arXiv 2202.07052, section 4.1.

    Args:
        parameters: those with one dimension or fewer, or without a gradient, are left alone.
        per: "layer" makes the Frobenius norm of every gradient one (N-SGDM), "component" the norm
            of every row (CN-SGDM). Zero stays zero.

    Raises:
        ValueError: a sparse, complex or meta gradient, or another `per`.
    """
    if per not in ("layer", "component"):
        raise ValueError(f"per={per!r} is not one of 'layer', 'component'")
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    sum_partial_gradients(parameters)
    separate_gradients(*split_written(parameters))
    for grad in _matrix_gradients(parameters):
        matrix = in_float32(to_matrices(grad)[0])
        dim = (-2, -1) if per == "layer" else (-1,)
        largest = matrix.abs().amax(dim=dim, keepdim=True)  # so that squares stay in range
        matrix = matrix / torch.where(largest > 0, largest, 1)
        norm = torch.linalg.vector_norm(matrix, dim=dim, keepdim=True)
        grad.copy_(from_matrices(matrix / torch.where(norm > 0, norm, 1), grad))
