"""Optimizers by the name that a configuration gives them."""

import difflib
import inspect
from typing import Any

from torch.optim import SGD, Adam, AdamW, Optimizer

from sslortho.optim.lars import LARS
from sslortho.optim.group_options import check_numbers
from sslortho.optim.wrapped import (
    ComponentNormSGD,
    NormSGD,
    OrthAdam,
    OrthAdamW,
    OrthLARS,
    OrthSGD,
    ReplacedGradients,
)

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "lars": LARS,
    "orth_sgd": OrthSGD,
    "orth_adam": OrthAdam,
    "orth_adamw": OrthAdamW,
    "orth_lars": OrthLARS,
    "norm_sgd": NormSGD,
    "component_norm_sgd": ComponentNormSGD,
}


def accepted_options(name: str) -> set[str]:
    """Names of the keyword arguments that the optimizer takes."""
    if name not in OPTIMIZERS:
        near = difflib.get_close_matches(str(name), OPTIMIZERS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"optim={name!r} is not one of {', '.join(OPTIMIZERS)}{hint}")
    cls = OPTIMIZERS[name]
    plain = next(base for base in cls.__mro__ if not issubclass(base, ReplacedGradients))
    own = set(getattr(cls, "group_defaults", {})) | ({"share"} if hasattr(cls, "share") else set())
    return (set(inspect.signature(plain).parameters) - {"params"}) | own


def create_optimizer(name: str, params: Any, **options: Any) -> Optimizer:
    """The optimizer called `name` in OPTIMIZERS over `params`.

    Raises:
        ValueError: an unknown name, an option that the optimizer does not take, or a rate, momentum
            or decay that is negative or not finite.
    """
    accepted = accepted_options(name)
    for option in options:
        if option not in accepted:
            near = difflib.get_close_matches(option, accepted, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(
                f"{option}={options[option]!r} is not an option of optim={name!r}, which takes "
                f"{', '.join(sorted(accepted))}{hint}"
            )
    check_numbers(options)
    return OPTIMIZERS[name](params, **options)
