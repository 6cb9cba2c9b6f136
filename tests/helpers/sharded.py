"""State dicts of modules and optimizers that are split among ranks."""

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map

from sslortho.train.sharding import whole


def gather_state(state: Any) -> Any:
    """Gather every tensor of a state dict: that of the same module or optimizer unsharded.

    Every rank must call, and each receives all of it.
    """
    return tree_map(lambda value: whole(value) if isinstance(value, Tensor) else value, state)
