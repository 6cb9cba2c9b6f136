"""Parameters that a wrapper of the model has flattened: no matrix is left in them to orthonormalise."""

import sys
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from sslortho.optim.components import is_matrix
from sslortho.optim.never_compiled import never_compiled

REMEDY = (
    "FullyShardedDataParallel flattens parameters, so no matrix is left to orthonormalise; use "
    "torch.distributed.fsdp.fully_shard (FSDP2)"
)

FLAT_PARAMETER = "_flat_param"
"""Name that FullyShardedDataParallel gives its parameter where use_orig_params is False."""


def check_not_flattened(model: nn.Module) -> None:
    """Raise ValueError for a model in which FullyShardedDataParallel (FSDP1) has flattened parameters.

    It leaves shapes alone with use_orig_params=True on one rank, or with ShardingStrategy.NO_SHARD.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")  # slow to import; no such module exists before
    if fsdp is None:
        return
    wrappers = [m for m in model.modules() if isinstance(m, fsdp.FullyShardedDataParallel)]
    sharded = any(m.sharding_strategy != fsdp.ShardingStrategy.NO_SHARD for m in wrappers)
    names = (name for m in wrappers for name, _ in m.named_parameters())
    if sharded or any(name.rpartition(".")[2] == FLAT_PARAMETER for name in names):
        raise ValueError(f"model={type(model).__name__}: {REMEDY}")


def find_matrices(parameters: Iterable[Tensor]) -> list[bool]:
    """Whether each parameter is a matrix; raises ValueError for a FlatParameter of FSDP1."""
    parameters = list(parameters)
    for parameter in parameters:
        if getattr(parameter, "_is_flat_param", False):  # the mark by which torch knows it
            raise ValueError(f"a parameter of shape {tuple(parameter.shape)}: {REMEDY}")
    return [is_matrix(parameter) for parameter in parameters]


@never_compiled
def check_still_matrices(groups: Sequence[dict], were: Mapping[int, Sequence[bool]]) -> None:
    """Raise ValueError for a parameter of a group with orth=True that was a matrix and is none now.

    Args:
        groups: of the optimizer. Other tensors may have taken the places of its parameters since.
        were: `find_matrices` of groups when they were added, by index. Groups may have been taken back since.
    """
    for index, group in enumerate(groups):
        before = were.get(index, ())
        if not group["orth"]:
            continue
        if len(before) != len(group["params"]):
            if any(before) and group["params"] and not any(map(is_matrix, group["params"])):
                shape = tuple(group["params"][0].shape)
                raise ValueError(
                    f"a group that had {sum(before)} matrices when the optimizer was made has none now, but a "
                    f"parameter of shape {shape}; an engine such as DeepSpeed's ZeRO has flattened them, and "
                    "none is left to orthonormalise; use DistributedDataParallel or "
                    "torch.distributed.fsdp.fully_shard (FSDP2)"
                )
            continue
        for parameter, was_matrix in zip(group["params"], before, strict=True):
            if was_matrix and not is_matrix(parameter):
                raise ValueError(
                    f"a parameter that was a matrix when the optimizer was made has the shape "
                    f"{tuple(parameter.shape)} now; {REMEDY}"
                )
