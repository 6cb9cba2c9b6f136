"""The base optimizer of `Muon`: steps of set length along matrices, AdamW for everything else."""

# torch exports its foreach functions to optimizers, but not by name
# pyright: reportPrivateImportUsage=false

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from sslortho.optim.auxiliary_adamw import step_by_adamw
from sslortho.optim.components import is_matrix, matrix_shape
from sslortho.optim.group_options import check_dense, take_foreach
from sslortho.optim.never_compiled import PlainOptimizer
from sslortho.optim.precision import all_in_float32, as_scalar, round_into
from sslortho.optim.update_scale import Scale, update_scale

ROW_MOMENT = "row_moment"
"""Name of the running second moment of rows in a parameter's state."""

GROUP_OPTIONS = (
    "lr", "momentum", "nesterov", "weight_decay", "decoupled_weight_decay", "scale", "normalise_rows",
    "betas", "eps", "foreach",
)  # fmt: skip
"""Options of every group."""


def is_stepped_as_matrix(parameter: Tensor, group: dict[str, Any]) -> bool:
    """Whether a parameter of a group is stepped as matrices, and not by AdamW."""
    return group["orth"] and is_matrix(parameter)


class ScaledStep(PlainOptimizer):
    """Step along the gradient of each matrix as it is, times `lr` and a factor of the matrix's sides.

    `Muon` puts the orthonormalisation in front and has the meaning of each option. Everything else is
    stepped by AdamW.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = True,
        scale: Scale = "muon",
        normalise_rows: float | None = None,
        adamw_lr: float | Tensor = 3e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-10,
        foreach: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "scale": scale,
            "normalise_rows": normalise_rows,
            "adamw_lr": adamw_lr,
            "betas": betas,
            "eps": eps,
            "foreach": foreach,
        }
        take_foreach(defaults)
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name in GROUP_OPTIONS:  # saved before there was such an option
                group.setdefault(name, self.defaults[name])
            take_foreach(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as torch does; foreach=None is True."""
        take_foreach(param_group)
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; returns the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        check_dense(self)
        for group in self.param_groups:
            matrices = [p for p in group["params"] if is_stepped_as_matrix(p, group)]
            others = [p for p in group["params"] if not is_stepped_as_matrix(p, group)]
            _step_along(matrices, group)
            step_by_adamw(others, self.state, group)
        return loss


def _step_along(parameters: Iterable[Tensor], group: dict[str, Any]) -> None:
    """Step matrices along their gradients, those alike in one call.

    Half-precision parameters are stepped in float32 and rounded at the end.
    """
    layout = group["orth_components"], group["orth_view"]
    alike: dict[tuple, list[Tensor]] = defaultdict(list)
    for p in parameters:
        if p.grad is None or not p.numel():
            continue
        _, rows, columns = matrix_shape(p.shape, *layout)
        factor = update_scale(rows, columns, group["scale"])
        alike[factor, p.device, p.dtype, type(p.grad)].append(p)
    for (factor, *_), params in alike.items():
        for together in [params] if group["foreach"] else [[p] for p in params]:
            wide = all_in_float32(together)
            _descend(wide, [p.grad for p in together if p.grad is not None], factor, group)
            round_into(together, wide)


def _descend(
    parameters: list[Tensor], gradients: list[Tensor], factor: float, group: dict[str, Any]
) -> None:
    """`p = (1 - lr * weight_decay) * p - lr * factor * gradient`, in place."""
    rate, decay = as_scalar(group["lr"]), group["weight_decay"]
    gradients = all_in_float32(gradients)
    if decay and group["decoupled_weight_decay"]:
        torch._foreach_mul_(parameters, 1 - rate * decay)
    if isinstance(rate, Tensor):
        torch._foreach_sub_(parameters, torch._foreach_mul(gradients, rate * factor))
    else:
        torch._foreach_add_(parameters, gradients, alpha=-(rate * factor))
