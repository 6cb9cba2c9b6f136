"""The optimizer of a run: its settings, worked out once from the options."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch.optim import Optimizer

from sslortho.optim import OPTIMIZERS, create_optimizer
from sslortho.optim.registry import accepted_options
from sslortho.recipes.options import OptimizerOptions


@dataclass(frozen=True)
class OptimizerRecipe:
    """An optimizer's name, rate and settings."""

    name: str
    lr: float
    """Learning rate of the weights, absolute."""
    settings: Mapping[str, Any]
    """Arguments of `create_optimizer`."""
    orth_layers: Literal["conv", "all", "none"]
    """Layers whose gradients it orthonormalises."""
    attention: Literal["whole", "heads"]
    """Matrices of attention layers."""
    weight_decay: float

    def create(self, groups: list[dict[str, Any]]) -> Optimizer:
        """The optimizer over parameter groups; `lr` where a group has none."""
        return create_optimizer(self.name, groups, lr=self.lr, **self.settings)


def _check_layers(options: OptimizerOptions, accepted: set[str]) -> None:
    """Raise ValueError for options of orthonormalisation that the optimizer has no use for."""
    for name, needed in (("orth_layers", "orth"), ("attention", "orth_components")):
        if getattr(options, name) is not None and needed not in accepted:
            others = [other for other in OPTIMIZERS if needed in accepted_options(other)]
            raise ValueError(
                f"{name}={getattr(options, name)!r} has no effect on optim={options.optim!r}; "
                f"it has one on {', '.join(others)}"
            )


def resolve_optimizer(
    options: OptimizerOptions, lr: float, orth_layers: Literal["conv", "all"]
) -> OptimizerRecipe:
    """The optimizer that the options name.

    Args:
        options: its name and settings.
        lr: learning rate of the weights, absolute.
        orth_layers: layers that it orthonormalises where the options do not say.

    Raises ValueError for an unknown name, and for an option that the optimizer does not take.
    """
    accepted = accepted_options(options.optim)
    _check_layers(options, accepted)
    momentum = options.momentum
    if momentum is None and "momentum" in accepted:
        momentum = 0.9
    given = {
        "momentum": momentum,
        "nesterov": options.nesterov,
        "betas": options.betas,
        "trust_coefficient": options.trust_coefficient,
        "polar": options.polar,
        "share": options.share,
    }
    settings = {name: value for name, value in given.items() if value is not None}
    if "momentum" in settings and "betas" in accepted:
        raise ValueError(
            f"momentum={momentum} is not an option of optim={options.optim!r}; give its betas, such as "
            f"[{momentum}, 0.999]"
        )
    return OptimizerRecipe(
        name=options.optim,
        lr=lr,
        settings=settings,
        orth_layers=(options.orth_layers or orth_layers) if "orth" in accepted else "none",
        attention=options.attention or "whole",
        weight_decay=options.weight_decay,
    )
