"""Training with parameters, gradients and optimizer state split among the ranks (torch's FSDP2).

The given task stays whole, on the CPU, for evaluation and export; a sharded copy of it trains. A
checkpoint gathers all shards: it is the same file as without sharding, and any number of ranks,
sharded or not, can resume from it.
"""

import copy
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from sslortho.methods import Task
from sslortho.optim.gradients import is_sharded
from sslortho.optim.precision import HALF_PRECISION, in_float32

if TYPE_CHECKING:  # slow to import, and only split trainings need them
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import MixedPrecisionPolicy

SMALLEST = 2**20
"""Entries of a block that is gathered by itself: 4 MiB of float32. Smaller ones are not worth a message of
their own."""

LARGEST = 2**23
"""Entries of a block that is not cut further: a transformer's block of width 768 has 7.1 million."""


ROUNDED = (
    nn.Linear, nn.MultiheadAttention, nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
"""Layers whose parameters autocast rounds."""


def _is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm of any library, which has scales and perhaps biases of channels alone."""
    own = list(module.parameters(recurse=False))
    return "norm" in type(module).__name__.lower() and bool(own) and all(p.ndim < 2 for p in own)


def check_sharding(accelerator: Accelerator) -> None:
    """Raise ValueError where sharding has no effect, or would give wrong numbers."""
    if accelerator.num_processes == 1:
        raise ValueError("shard=True has no effect on one rank; leave it out, or start several")
    if accelerator.scaler:
        raise ValueError(
            "shard=True does not go with mixed_precision='fp16', whose scaler would have to look at "
            "the gradients of all ranks; use 'bf16'"
        )
    if accelerator.device.type == "cpu" and torch.__version__ < "2.7":
        raise ValueError("shard=True on CPUs needs torch 2.7 or newer; leave it out")


def _check_statistics(task: nn.Module) -> None:
    for name, module in task.named_modules():
        own = isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
        if own and module.track_running_stats:
            raise ValueError(
                f"shard=True: {name} would keep other running statistics on each rank, of which a "
                "checkpoint holds one; use sync_batch_norm=True"
            )


def find_blocks(module: nn.Module) -> list[nn.Module]:
    """Blocks that are gathered one at a time, the inner ones first.

    They are the members of each Sequential and ModuleList that have a `forward` and SMALLEST entries or
    more, such as the blocks of a ResNet or a transformer, and large layers of a projector. Within a block
    of more than LARGEST there are further ones. A block that shares a parameter with the rest of the
    module stays with it.
    """
    everywhere = Counter(id(p) for _, p in module.named_parameters(remove_duplicate=False))
    found: list[nn.Module] = []

    def is_block(child: nn.Module, size: int) -> bool:
        listed = isinstance(child, nn.ModuleList | nn.ModuleDict)  # they have no `forward`
        if size < SMALLEST or listed or _is_norm(child):
            return False
        inside = Counter(id(p) for _, p in child.named_parameters(remove_duplicate=False))
        return all(everywhere[key] == count for key, count in inside.items())

    def visit(parent: nn.Module) -> None:
        for child in parent.children():
            size = sum(p.numel() for p in child.parameters())
            block = isinstance(parent, nn.Sequential | nn.ModuleList) and is_block(child, size)
            if not block or size > LARGEST:
                visit(child)
            if block:
                found.append(child)

    visit(module)
    return found


def is_rounded(block: nn.Module, blocks: list[nn.Module]) -> bool:
    """Whether autocast rounds every parameter that a block gathers, those of its norms aside.

    It rounds those of linear layers, convolutions and attention. Others, such as position embeddings, class
    tokens and layer scales, are used as they are.

    blocks: all blocks; those within this one are gathered by themselves.
    """
    inside = set(block.modules()) - {block}
    apart = {module for other in blocks if other in inside for module in other.modules()}
    return all(
        isinstance(module, ROUNDED)
        or _is_norm(module)
        or next(module.parameters(False), None) is None
        for module in {block, *inside} - apart
    )


def _shard_part(part: nn.Module, mesh: "DeviceMesh", policy: "MixedPrecisionPolicy") -> None:
    """Split a child of the task: its blocks, one at a time, then what is left of it.

    policy: how blocks are gathered that hold nothing but what autocast rounds (`is_rounded`). The norms
        in them are gathered apart, as they are, and so are other blocks.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    blocks = find_blocks(part)
    if policy.param_dtype is not None:
        inside = {module for block in blocks for module in block.modules()}
        norms = [module for module in part.modules() if module in inside and _is_norm(module)]
        if norms:  # together: their scales are few
            fully_shard(norms, mesh=mesh)
    for block in blocks:
        rounded = is_rounded(block, blocks)
        fully_shard(block, mesh=mesh, mp_policy=policy if rounded else MixedPrecisionPolicy())
    fully_shard(part, mesh=mesh)


def shard_task(task: Task, optimizer: Optimizer, accelerator: Accelerator) -> Task:
    """Copy a task, split among all ranks, and point the optimizer to the parameters of the copy.

    Each block (`find_blocks`) is gathered by itself in forward and backward, and what is left of each
    child module (backbone, projector, ...). With mixed_precision bf16 those blocks travel in bfloat16, half
    the bytes, whose weights autocast would round all the same (`is_rounded`). Gradients are summed in
    float32, and the shards, the norms, other blocks and what is left stay in float32. Every rank must hold
    the same weights. The task itself moves to the CPU; `gather_into` updates it.

    Args:
        task: whole, on the accelerator's device.
        optimizer: over the task's parameters, without state yet.
        accelerator: its ranks and its precision.

    Raises ValueError as `check_sharding`, and for batch norms whose statistics are each rank's own.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    check_sharding(accelerator)
    _check_statistics(task)
    assert not optimizer.state
    # each part then travels to the device as it is split, and no device holds all of it twice
    task.to("cpu")
    sharded = copy.deepcopy(task)
    # FSDP2 refuses any other; views and activations keep theirs
    sharded.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    policy = MixedPrecisionPolicy()
    if accelerator.mixed_precision == "bf16":  # autocast decides about the inputs of each operation
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for part in sharded.children():
        if any(True for _ in part.parameters()):
            _shard_part(part, mesh, policy)
    fully_shard(sharded, mesh=mesh)
    shard_of = dict(zip(task.parameters(), sharded.parameters(), strict=True))
    for group in optimizer.param_groups:
        group["params"] = [shard_of[parameter] for parameter in group["params"]]
    return sharded


def is_split(task: nn.Module) -> bool:
    """Whether a task is split among the ranks, as `shard_task` does it."""
    module = sys.modules.get("torch.distributed.fsdp")  # none is before that is imported
    return module is not None and isinstance(task, module.FSDPModule)


@contextmanager
def hold_gradients(task: Any) -> Iterator[None]:
    """Accumulate gradients of a split task inside without communication among ranks."""
    task.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        task.set_requires_gradient_sync(True)


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor that may be split among ranks; every rank must call."""
    split: Any = tensor
    return split.full_tensor() if is_sharded(tensor) else tensor


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Euclidean norm of all entries on all ranks, a scalar; every rank must call.

    In float32 for half-precision tensors, whose norm may exceed 65,504.
    """
    norms = [
        torch.linalg.vector_norm(in_float32(t)) if t.dtype in HALF_PRECISION else t for t in tensors
    ]
    return whole(torch.nn.utils.get_total_norm(norms))


def gather_to_main(
    state: Any, accelerator: Accelerator, copy: Callable[[Tensor], Tensor] = torch.clone
) -> Any:
    """Copy a state dict to the memory of the main rank's CPU, one tensor at a time.

    Every rank must call. Other ranks receive None for each tensor. No GPU holds more than one whole
    tensor of those that are split.

    Args:
        state: of a module or optimizer, split among the ranks or not.
        accelerator: says which rank this is.
        copy: copies a tensor that is not split to the CPU.
    """

    def gather(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if is_sharded(value):
            value = whole(value)  # by every rank
            # of a tensor on a CPU that this rank alone holds, the whole is its own memory
            return value.to("cpu", copy=True) if accelerator.is_main_process else None
        return copy(value) if accelerator.is_main_process else None

    return tree_map(gather, state)


def gather_into(task: Task, sharded: Task, device: torch.device) -> None:
    """Move a whole task to a device and load the weights of its sharded copy; every rank must call.

    The weights are gathered one tensor at a time, to the CPU, so that no GPU holds them twice.
    """
    task.load_state_dict(tree_map(_whole_on_cpu, sharded.state_dict()))
    task.to(device)


def _whole_on_cpu(value: Any) -> Any:
    return whole(value).cpu() if isinstance(value, Tensor) else value


def _split_like(value: Any, parameter: Tensor) -> Any:
    """This rank's shard of a whole tensor, split as the parameter is; any other value unchanged."""
    alike = isinstance(value, Tensor) and value.shape == parameter.shape
    if not alike or not is_sharded(parameter):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    value = value.to(parameter.device)
    # every rank has read the same file: none needs to be sent its part
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def scatter_state(
    state: dict[str, Any], task: nn.Module, optimizer: Optimizer
) -> tuple[dict[str, Any], dict[str, Any]]:
    """State dicts that a task and an optimizer can load, from {"task": ..., "optimizer": ...} of whole
    tensors.

    Those of unsharded modules and optimizers are returned unchanged.
    """
    own = task.state_dict()
    weights = {
        name: _split_like(value, own[name]) if name in own else value
        for name, value in state["task"].items()
    }
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    slots = {
        index: {name: _split_like(value, parameters[index]) for name, value in slot.items()}
        for index, slot in state["optimizer"]["state"].items()
    }
    return weights, {**state["optimizer"], "state": slots}
