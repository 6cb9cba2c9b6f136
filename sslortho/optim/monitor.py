"""What orthonormalising does to each layer's gradient, measured when asked for."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from sslortho.optim.components import is_matrix, to_matrices
from sslortho.optim.gradients import gather, is_sharded
from sslortho.optim.polar_factor import polar


def effective_rank(matrices: Tensor) -> Tensor:
    """Exponential of the entropy of the normalised singular values (Roy and Vetterli 2007).

    Of matrices (..., rows, columns): 1 for rank one, min(rows, columns) where all are equal; 0 for
    zero, NaN for what is not finite. Singular values come from the Gram matrix in float64.
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
    """Scalars about a raw gradient G and its nearest orthonormal matrix O.

    "cosine" between them, "distance" `||O - G||_F`, and "effective_rank" of G, the mean over its
    matrices.
    """
    if is_sharded(gradient):
        gradient, _ = gather(gradient)
    raw = to_matrices(gradient, components, view)
    factors = polar(raw).double()
    # of float64 even squares of float32 are in range; what is not finite becomes NaN all over
    matrices = torch.where(raw.isfinite().all(), raw.double(), torch.nan)
    norms = torch.linalg.vector_norm(matrices) * torch.linalg.vector_norm(factors)
    return {
        "cosine": (matrices * factors).sum() / torch.where(norms == 0, 1, norms),
        "distance": torch.linalg.vector_norm(factors - matrices),
        "effective_rank": effective_rank(matrices).mean(),
    }


def measure_gradients(groups: Iterable[dict[str, Any]]) -> dict[str, float]:
    """`measure_gradient` of every matrix that an optimizer's groups have orthonormalised.

    Args:
        groups: an optimizer's `param_groups`, before its step replaces the gradients. Names come
            from a group's "names"; a group with orth=False is left out.

    Returns:
        "cosine/NAME", "distance/NAME", "effective_rank/NAME".
    """
    figures: dict[str, Tensor] = {}
    for number, group in enumerate(groups):
        if not group.get("orth", True):
            continue
        names = group.get("names") or [f"{number}.{i}" for i in range(len(group["params"]))]
        for name, parameter in zip(names, group["params"], strict=True):
            if parameter.grad is None or not is_matrix(parameter) or not parameter.numel():
                continue
            measured = measure_gradient(
                parameter.grad, group.get("orth_components", 1), group.get("orth_view", "rows")
            )
            figures.update({f"{key}/{name}": value for key, value in measured.items()})
    if not figures:
        return {}
    values = torch.stack([value.double() for value in figures.values()]).tolist()  # one look
    return dict(zip(figures, values, strict=True))
