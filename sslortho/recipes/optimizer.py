"""Optimizers over parameter groups."""

from typing import Any

from torch.optim import Optimizer

from sslortho.recipes.options import OptimizerOptions
from sslortho.optim import OPTIMIZERS, create_optimizer
from sslortho.optim.registry import accepted_options


def check_optimizer(config: OptimizerOptions) -> set[str]:
    """Names of the options that the optimizer takes; ValueError if it is given layers in vain."""
    accepted = accepted_options(config.optim)
    for name, needed in (("orth_layers", "orth"), ("attention", "orth_components")):
        if getattr(config, name) is not None and needed not in accepted:
            others = [other for other in OPTIMIZERS if needed in accepted_options(other)]
            raise ValueError(
                f"{name}={getattr(config, name)!r} has no effect on optim={config.optim!r}; "
                f"the ones that it has are {', '.join(others)}"
            )
    return accepted


def optimizer_over(config: OptimizerOptions, groups: list[dict[str, Any]], lr: float) -> Optimizer:
    """The configuration's optimizer over `groups`; lr, absolute, where they have none.

    Raises ValueError for an option that the optimizer does not take.
    """
    momentum = config.momentum
    if momentum is None and "momentum" in check_optimizer(config):
        momentum = 0.9
    given = {
        "momentum": momentum,
        "nesterov": config.nesterov,
        "betas": config.betas,
        "trust_coefficient": config.trust_coefficient,
        "polar": config.polar,
        "share": config.share,
    }
    options = {name: value for name, value in given.items() if value is not None}
    accepted = check_optimizer(config)
    if "momentum" in options and "betas" in accepted:
        raise ValueError(
            f"momentum={momentum} is not an option of optim={config.optim!r}; give its betas, such as "
            f"[{momentum}, 0.999]"
        )
    return create_optimizer(config.optim, groups, lr=lr, **options)
