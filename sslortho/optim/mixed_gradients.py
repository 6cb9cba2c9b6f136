"""Groups that hold DTensors beside other gradients, as `fully_shard(ignored_params=...)` leaves them."""

import contextlib
from collections.abc import Iterator
from typing import Any

from sslortho.optim.gradients import is_sharded


def _is_mixed(group: dict[str, Any]) -> bool:
    """Whether some gradients of a group are DTensors, and some are not."""
    return len({is_sharded(p.grad) for p in group["params"] if p.grad is not None}) > 1


@contextlib.contextmanager
def one_by_one_where_mixed(groups: list[dict[str, Any]]) -> Iterator[None]:
    """Set foreach=False in groups that torch's foreach functions do not take together; restore it after."""
    mixed = [group for group in groups if group.get("foreach") and _is_mixed(group)]
    for group in mixed:
        group["foreach"] = False
    try:
        yield
    finally:
        for group in mixed:
            group["foreach"] = True
