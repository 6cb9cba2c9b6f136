"""Parts of an optimizer's state that stay float32 when a state is loaded into half-precision parameters."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from sslortho.optim.precision import HALF_PRECISION

StateDict = dict[str, Any]


def load_wide(
    optimizer: Optimizer,
    load: Callable[[StateDict], None],
    state_dict: StateDict,
    names: Sequence[str],
) -> None:
    """Load a state by an optimizer's own function, but keep parts of it in float32.

    torch rounds every part of a state to the precision of its parameter.

    Args:
        optimizer: its hooks see what they see without this; a state that one of them returns counts.
        load: `load_state_dict` of the optimizer's base class.
        state_dict: as `load` takes it.
        names: parts that are float32 for parameters of half precision.
    """
    seen = [state_dict]

    def see(_: Optimizer, hooked: StateDict) -> None:
        seen[0] = hooked

    # the last before and the first after, around torch's own work
    handles = [
        optimizer.register_load_state_dict_pre_hook(see),
        optimizer.register_load_state_dict_post_hook(
            lambda _: _copy_wide(optimizer, seen[0], names), prepend=True
        ),
    ]
    try:
        load(state_dict)
    finally:
        for handle in handles:
            handle.remove()


def _copy_wide(optimizer: Optimizer, state_dict: StateDict, names: Sequence[str]) -> None:
    """Copy parts of a saved state of half-precision parameters, in float32."""
    keys = [key for group in state_dict["param_groups"] for key in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, parameter in zip(keys, parameters, strict=True):
        if parameter.dtype not in HALF_PRECISION:
            continue
        saved = state_dict["state"].get(key, {})
        for name in names:
            if name in saved:
                moved = saved[name].to(parameter.device, torch.float32, copy=True)
                optimizer.state[parameter][name] = moved
