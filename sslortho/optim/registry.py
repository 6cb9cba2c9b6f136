"""Optimizers by name: "orth_lars" -> OrthLARS."""

import inspect
from collections.abc import Iterable
from typing import Any

from torch.optim import SGD, Adam, AdamW, Optimizer

from sslortho.optim.group_options import check_numbers
from sslortho.optim.lars import LARS
from sslortho.optim.muon import Muon
from sslortho.optim.replaced_gradients import ReplacedGradients
from sslortho.optim.wrapped import (
    ComponentNormSGD,
    NormSGD,
    OrthAdam,
    OrthAdamW,
    OrthLARS,
    Orthogonal,
    OrthSGD,
)
from sslortho.options import nearest

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "lars": LARS,
    "orth_sgd": OrthSGD,
    "orth_adam": OrthAdam,
    "orth_adamw": OrthAdamW,
    "orth_lars": OrthLARS,
    "muon": Muon,
    "norm_sgd": NormSGD,
    "component_norm_sgd": ComponentNormSGD,
}
"""Name, as in `--optim`, to class."""


def accepted_options(name: str) -> set[str]:
    """Names of the keyword arguments that an optimizer takes, group options included.

    Raises ValueError for an unknown name.
    """
    if name not in OPTIMIZERS:
        raise ValueError(
            f"optim={name!r} is not one of {', '.join(OPTIMIZERS)}{nearest(name, OPTIMIZERS)}"
        )
    cls = OPTIMIZERS[name]
    plain = next(base for base in cls.__mro__ if not issubclass(base, ReplacedGradients))
    own = set(getattr(cls, "group_defaults", {}))
    if issubclass(cls, Orthogonal):
        own |= {"share", "process_group"}
    return (set(inspect.signature(plain).parameters) - {"params"}) | own


def check_options(name: str, options: Iterable[tuple[str, Any]]) -> None:
    """Raise ValueError for an unknown optimizer, or an option, with its value, that it does not take."""
    accepted = accepted_options(name)
    for option, value in options:
        if option not in accepted:
            raise ValueError(
                f"{option}={value!r} is not an option of optim={name!r}, which takes "
                f"{', '.join(sorted(accepted))}{nearest(option, accepted)}"
            )


def create_optimizer(name: str, params: Any, **options: Any) -> Optimizer:
    """Create the optimizer called `name` in OPTIMIZERS.

    Args:
        name: a key of OPTIMIZERS.
        params: parameters, or groups such as `param_groups` makes.
        options: keyword arguments of the optimizer; `lr` is absolute.

    Raises:
        ValueError: an unknown name, an option that the optimizer does not take, or a rate, momentum
            or decay that is negative or not finite.
    """
    check_options(name, options.items())
    check_numbers(options)
    return OPTIMIZERS[name](params, **options)
