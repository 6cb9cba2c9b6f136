"""Measurements of each layer's gradient and filters, and of an optimizer's memory."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sslortho.optim.components import is_matrix, to_matrices
from sslortho.optim.gradients import gather, is_sharded
from sslortho.optim.polar_factor import ieee_float32, polar
from sslortho.optim.precision import in_float32

TINY = 1e-4
"""Largest absolute value of an entry that figure 9 counts as disabled (the authors' analysis.py)."""


def effective_rank(matrices: Tensor) -> Tensor:
    """Exponential of the entropy of the normalised singular values (Roy and Vetterli 2007).

    Args:
        matrices: (..., rows, columns).

    Returns:
        (...), float64: 1 for rank one, min(rows, columns) where all singular values are equal, 0 for a
        zero matrix, NaN for one that is not finite. Singular values come from the Gram matrix in float64.
    """
    a = matrices.double()
    largest = torch.linalg.vector_norm(a, torch.inf, dim=(-2, -1), keepdim=True)
    finite = largest.isfinite()
    a = torch.where(finite & (largest > 0), a / largest, 0)
    gram = a @ a.mT if a.shape[-2] <= a.shape[-1] else a.mT @ a
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    total = values.sum(dim=-1, keepdim=True)
    share = values / torch.where(total > 0, total, 1)
    rank = torch.special.entr(share).sum(dim=-1).exp() * (total.squeeze(-1) > 0)
    return torch.where(finite[..., 0, 0], rank, torch.nan)


@torch.no_grad()
def measure_gradient(
    gradient: Tensor, components: int = 1, view: Any = "rows"
) -> dict[str, Tensor]:
    """Compare a raw gradient G with its nearest orthonormal matrix O.

    Args:
        gradient: of a parameter with two dimensions or more.
        components, view: its `orth_components` and `orth_view`.

    Returns:
        Scalars: "cosine" between G and O, "distance" `||O - G||_F`, "effective_rank" of G (the mean over
        its matrices), and "gradient_norm" `||G||_F`.
    """
    raw = to_matrices(_gather_whole(gradient), components, view)
    factors = polar(in_float32(raw)).double()
    # in float64 the squares of all float32 numbers are in range; NaN everywhere if one is not finite
    matrices = torch.where(raw.isfinite().all(), raw.double(), torch.nan)
    norm = torch.linalg.vector_norm(matrices)
    norms = norm * torch.linalg.vector_norm(factors)
    return {
        "cosine": (matrices * factors).sum() / torch.where(norms == 0, 1, norms),
        "distance": torch.linalg.vector_norm(factors - matrices),
        "effective_rank": effective_rank(matrices).mean(),
        "gradient_norm": norm,
    }


@torch.no_grad()
def count_disabled(gradient: Tensor) -> dict[str, Tensor]:
    """Count entries of a raw gradient that do not move their weights (arXiv 2202.07052, section 4.3).

    Returns:
        "zero_gradients", the number that are exactly 0: the paper's temporarily disabled parameters;
        "tiny_gradients", the number of absolute value at most TINY, which its figure 9 counts.
    """
    whole = in_float32(_gather_whole(gradient))  # half precision would round TINY too
    return {"zero_gradients": (whole == 0).sum(), "tiny_gradients": (whole.abs() <= TINY).sum()}


@torch.no_grad()
def filter_cosine(weight: Tensor, components: int = 1, view: Any = "rows") -> Tensor | None:
    """Mean absolute cosine of all distinct pairs of a layer's filters, over its matrices.

    A filter is a row of a matrix (`sslortho.optim.components` has the table). A filter that is zero has
    cosine 0 with every other. None if the matrices have a single row.
    """
    matrices = to_matrices(_gather_whole(weight), components, view)
    rows = matrices.shape[1]
    if rows < 2:
        return None
    matrices = in_float32(matrices)
    unit = torch.nn.functional.normalize(matrices, dim=-1, eps=1e-8)  # eps of its cosine_similarity
    with ieee_float32({unit.device.type}):
        cosines = (unit @ unit.mT).abs_()
    cosines.diagonal(dim1=-2, dim2=-1).zero_()
    return cosines.sum(dim=(-2, -1)).mean() / (rows * (rows - 1))


def _gather_whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or a DTensor in full."""
    return gather(tensor)[0] if is_sharded(tensor) else tensor


Matrix = tuple[str, Tensor, int, Any]
"""Name of a layer, its parameter, and its `orth_components` and `orth_view`."""


def _matrices(groups: Iterable[dict[str, Any]], orth_only: bool) -> Iterator[Matrix]:
    """Yield the matrices of an optimizer's groups, or of those that are orthonormalised."""
    for number, group in enumerate(groups):
        if orth_only and not group.get("orth", True):
            continue
        names = group.get("names") or [f"{number}.{i}" for i in range(len(group["params"]))]
        layout = group.get("orth_components", 1), group.get("orth_view", "rows")
        for name, parameter in zip(names, group["params"], strict=True):
            if is_matrix(parameter) and parameter.numel():
                yield name.removesuffix(".weight"), parameter, *layout


def _read_numbers(figures: dict[str, Tensor]) -> dict[str, float]:
    """Read scalars of any device as plain numbers; waits for the device once."""
    if not figures:
        return {}
    values = torch.stack([value.double() for value in figures.values()]).tolist()
    return dict(zip(figures, values, strict=True))


def _add_name(figures: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Figures with the name of their layer behind them: "cosine/NAME"."""
    return {f"{key}/{name}": value for key, value in figures.items()}


def measure_gradients(groups: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Measure every gradient that an optimizer is going to orthonormalise, by `measure_gradient`.

    Args:
        groups: an optimizer's `param_groups`, before its step replaces the gradients. Names come
            from a group's "names", without a final ".weight"; a group with orth=False is left out.

    Returns:
        "cosine/NAME", "distance/NAME", "effective_rank/NAME", "gradient_norm/NAME".
    """
    figures: dict[str, Tensor] = {}
    for name, parameter, components, view in _matrices(groups, orth_only=True):
        if parameter.grad is not None:
            figures.update(_add_name(measure_gradient(parameter.grad, components, view), name))
    return _read_numbers(figures)


def measure_layers(groups: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Measure gradient and filters of every matrix in an optimizer's groups, orthonormalised or not.

    Each matrix costs a decomposition and the cosines of all pairs of its rows.

    Args:
        groups: as in `measure_gradients`, but a group with orth=False is measured too.

    Returns:
        Figures of `measure_gradient` and `count_disabled` for each matrix that has a gradient, and
        "filter_cosine/NAME" for each with more than one row.
    """
    figures: dict[str, Tensor] = {}
    for name, parameter, components, view in _matrices(groups, orth_only=False):
        if parameter.grad is not None:
            figures.update(_add_name(measure_gradient(parameter.grad, components, view), name))
            figures.update(_add_name(count_disabled(parameter.grad), name))
        cosine = filter_cosine(parameter, components, view)
        if cosine is not None:
            figures[f"filter_cosine/{name}"] = cosine
    return _read_numbers(figures)


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of all tensors in an optimizer's state, on this rank (arXiv 2202.07052, section 3.1.2).

    With parameters and gradients in float32: SGD without momentum keeps nothing (the paper's 2n
    memory), with momentum once the parameters (3n), Adam twice and a step count (4n).
    """
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )
