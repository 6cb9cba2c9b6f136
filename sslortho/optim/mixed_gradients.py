"""Groups that torch's foreach functions do not take together.

They hold DTensors beside other gradients, as `fully_shard(ignored_params=...)` leaves them, or have a rate or a
beta that is a tensor.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from sslortho.optim.gradients import is_sharded


def _is_mixed(group: dict[str, Any]) -> bool:
    """Whether some gradients of a group are DTensors, and some are not."""
    return len({is_sharded(p.grad) for p in group["params"] if p.grad is not None}) > 1


def has_tensor_option(options: Mapping[str, Any]) -> bool:
    """Whether the rate or a beta is a tensor, with which some of torch's foreach forms do not work."""
    betas = options.get("betas")
    numbers = (options.get("lr"), *(betas if isinstance(betas, (tuple, list)) else ()))
    return any(isinstance(number, Tensor) for number in numbers)


@contextlib.contextmanager
def one_by_one_where_needed(groups: list[dict[str, Any]]) -> Iterator[None]:
    """Inside, foreach is False in groups of mixed gradients, and None in those with tensors for numbers."""
    together = [group for group in groups if group.get("foreach")]
    for group in together:
        if _is_mixed(group):
            group["foreach"] = False
        elif has_tensor_option(group):
            group["foreach"] = None
    try:
        yield
    finally:
        for group in together:
            group["foreach"] = True
