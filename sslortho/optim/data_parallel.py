"""DistributedDataParallel modules of this process, found by the parameters that they hold."""

import weakref
from collections.abc import Iterable

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.nn.parallel import DistributedDataParallel

_data_parallel: weakref.WeakValueDictionary[int, DistributedDataParallel]
_data_parallel = weakref.WeakValueDictionary()
"""Living DistributedDataParallel modules by id, in the order in which they were made."""

IMPORTED_LATE = dist.is_available() and dist.is_initialized()
"""Whether torch.distributed ran before this module was imported, so that DistributedDataParallel modules
may exist which it has not seen."""


def _remember_data_parallel(module: nn.Module, name: str, submodule: nn.Module | None) -> None:
    """Note a DistributedDataParallel module at the moment in which it takes in the user's model."""
    if isinstance(module, DistributedDataParallel):
        _data_parallel[id(module)] = module


# DDP leaves no mark on parameters, and torch lists its DDP modules nowhere. But a module that is given
# a submodule calls torch's registration hooks, once each time and never in a forward pass.
register_module_module_registration_hook(_remember_data_parallel)


def find_data_parallel(parameters: Iterable[Tensor]) -> DistributedDataParallel | None:
    """The newest DistributedDataParallel module that holds one of these parameters, or None.

    Finds those made after this module was imported.
    """
    wanted = {id(parameter) for parameter in parameters}
    for module in reversed(list(_data_parallel.values())):
        if any(id(parameter) in wanted for parameter in module.parameters()):
            return module
    return None


def lets_ranks_end_early(module: DistributedDataParallel) -> bool:
    """Whether a rank that has run out of data may have stopped to step: within torch's `Join` context.

    Such a rank answers to DistributedDataParallel's communication alone.
    """
    join = getattr(module, "_join_config", None)
    return bool(join is not None and join.enable and not join.throw_on_early_termination)
