"""Settings of an optimizer by name, checked against what it takes before anything is built."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from sslortho.optim.grouping import Attention, param_groups
from sslortho.optim.layer_rates import split_by_factor
from sslortho.optim.registry import OPTIMIZERS, accepted_options, check_options, create_optimizer

BETAS = (0.9, 0.999)
"""Default betas of torch's Adam (arXiv 1412.6980)."""

Layers = Literal["conv", "all", "none"]


@dataclass(frozen=True)
class OptimizerSettings:
    """An optimizer's name, rate and settings."""

    name: str
    lr: float
    """Learning rate of the weights, absolute."""
    weight_decay: float
    orth_layers: Layers
    """Layers whose gradients it orthonormalises."""
    attention: Attention
    """Matrices of attention layers."""
    settings: Mapping[str, Any]
    """Other arguments of `create_optimizer`."""
    raw_settings: Mapping[str, Any] = field(default_factory=dict)
    """Those that are others for gradients that are not orthonormalised."""

    def over(
        self,
        module: nn.Module,
        lr_biases: float | None = None,
        factors: Mapping[int, float] | None = None,
    ) -> Optimizer:
        """The optimizer over all parameters of a module.

        Args:
            module: its parameters are sorted into groups by `param_groups`.
            lr_biases: learning rate of biases and norms, absolute; None: as the weights. No effect on
                Muon, whose AdamW steps them.
            factors: see `split_by_factor`; None: one rate for all layers.
        """
        groups = param_groups(
            module,
            self.orth_layers,
            attention=self.attention,
            lr=self.lr,
            lr_biases=lr_biases,
            weight_decay=self.weight_decay,
        )
        return self.create(groups if factors is None else split_by_factor(groups, factors, self.lr))

    def create(self, groups: list[dict[str, Any]]) -> Optimizer:
        """The optimizer over parameter groups; `lr` where a group has none.

        Groups that Muon leaves to AdamW have its `adamw_lr` in any case.
        """
        groups = [{**({} if g.get("orth", True) else self.raw_settings), **g} for g in groups]
        if has_auxiliary(self.name):
            for group in groups:
                if not group.get("orth", True):
                    group.pop("lr", None)
        return create_optimizer(self.name, groups, lr=self.lr, **self.settings)


def has_auxiliary(name: str) -> bool:
    """Whether an optimizer steps what it does not orthonormalise by another one of its own."""
    return "adamw_lr" in accepted_options(name)


def settle_optimizer(
    name: str,
    given: Mapping[str, Any],
    *,
    lr: float,
    weight_decay: float,
    orth_layers: Layers | None,
    attention: Attention | None,
) -> OptimizerSettings:
    """Check the settings of an optimizer, and fill in what is not given.

    Args:
        name: key of OPTIMIZERS.
        given: settings by name, such as momentum; None where one is not given.
        lr, weight_decay: of the weights; the rate is absolute.
        orth_layers, attention: see `param_groups`; None where not given: all layers, whole weights.

    With `orth_momentum` alone, momentum comes before the orthonormalisation and none after it; gradients
    that are not orthonormalised keep the optimizer's usual one.

    Raises ValueError for an unknown name, and for a setting that has no effect on the optimizer.
    """
    accepted = accepted_options(name)
    for option, value, needed in (
        ("orth_layers", orth_layers, "orth"),
        ("attention", attention, "orth_components"),
    ):
        if value is not None and needed not in accepted:
            others = [other for other in OPTIMIZERS if needed in accepted_options(other)]
            raise ValueError(
                f"{option}={value!r} has no effect on optim={name!r}; it has one on "
                f"{', '.join(others)}"
            )
    settings = {option: value for option, value in given.items() if value is not None}
    raw_settings: dict[str, Any] = {}
    usual, none = ({"momentum": 0.9}, {"momentum": 0.0})
    if "betas" in accepted:
        usual, none = {"betas": BETAS}, {"betas": (0.0, BETAS[1])}
    (after,) = usual
    if "orth_momentum" in accepted and settings.get("orth_momentum") and after not in settings:
        settings |= none
        raw_settings = usual
    if "momentum" in accepted:
        if not has_auxiliary(name):  # Muon has a default of its own
            settings.setdefault("momentum", 0.9)
    elif "momentum" in settings and "betas" in accepted:
        momentum = settings["momentum"]
        raise ValueError(
            f"momentum={momentum} is not an option of optim={name!r}; give its betas, such as "
            f"[{momentum}, 0.999]"
        )
    check_options(name, settings.items())
    return OptimizerSettings(
        name=name,
        lr=lr,
        weight_decay=weight_decay,
        orth_layers=(orth_layers or "all") if "orth" in accepted else "none",
        attention=attention or "whole",
        settings=settings,
        raw_settings=raw_settings,
    )
