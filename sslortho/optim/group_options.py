"""Checks of the numbers that an optimizer is given; torch's own let NaN and infinity through."""

import math
import numbers
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

NUMBERS = ("lr", "momentum", "weight_decay")
"""Options that must be 0 or more and finite in every optimizer. Not `eps`, which is a pair in
Adafactor."""


def is_finite_and_not_negative(value: Any) -> bool:
    """Whether a number, or a tensor of one element, is 0 or more and finite."""
    if isinstance(value, Tensor):
        if value.is_meta:  # has no value yet
            return True
        value = value.item() if value.numel() == 1 else math.nan
    return isinstance(value, numbers.Real) and 0 <= float(value) < math.inf


def check_dense(optimizer: Optimizer) -> None:
    """Raise ValueError for a sparse gradient of an optimizer that takes none, before anything is written."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and parameter.grad.is_sparse:
                raise ValueError(
                    f"{type(optimizer).__name__} does not take sparse gradients, and a parameter of shape "
                    f"{tuple(parameter.shape)} has one; use sparse=False"
                )


TORCH_WORDING = {
    "lr": "Invalid learning rate: ",
    "momentum": "Invalid momentum value: ",
    "weight_decay": "Invalid weight_decay value: ",
}
"""Beginnings of torch's messages, with the value behind them: other projects' tests look for these."""


def check_numbers(options: Mapping[str, Any]) -> None:
    """Raise ValueError if a rate, momentum or decay is negative, not finite, or not a number."""
    for name in NUMBERS:
        if name not in options or is_finite_and_not_negative(options[name]):
            continue
        value = options[name]
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(
                f"Tensor {name} must be 1-element ({name}=tensor of shape {tuple(value.shape)}); "
                "give a number, or a tensor of one"
            )
        raise ValueError(
            f"{TORCH_WORDING[name]}{value} ({name}={value!r} must be 0 or more, and finite)"
        )


def take_foreach(options: dict[str, Any]) -> None:
    """Make foreach=None, in place, what it means in torch: the optimizer's choice, which is True.

    Raises ValueError for what is neither None, True nor False.
    """
    if options.get("foreach", True) is None:
        options["foreach"] = True
    if not isinstance(options.get("foreach", True), bool):
        raise ValueError(f"foreach={options['foreach']!r} must be True, False or None")
