"""State of a training for a checkpoint, and its restoration."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim import Optimizer

from sslortho.train.progress import Progress, Window
from sslortho.train.sharding import gather_to_main, scatter_state


def circumstances(accelerator: Accelerator) -> dict[str, str | int]:
    """Ranks, threads, device and version of torch: rounding depends on them beside the options."""
    device = accelerator.device
    return {
        "ranks": accelerator.num_processes,
        "threads": torch.get_num_threads() if device.type == "cpu" else 0,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": str(torch.__version__),
    }


def check_agreement(state: dict[str, Any] | None, accelerator: Accelerator) -> None:
    """Raise ValueError unless every rank has found a checkpoint of the same step, or none has."""
    if accelerator.num_processes == 1:
        return
    steps: list[int] = gather_object([state["progress"]["step"] if state else 0])
    if len(set(steps)) > 1:
        found = ", ".join(f"rank {rank} step {step}" for rank, step in enumerate(steps))
        raise ValueError(
            f"the ranks have found different checkpoints ({found}; 0 is none): the run folder must "
            "be on a file system that all machines share"
        )


def describe_change(state: dict[str, Any], accelerator: Accelerator) -> str:
    """Differences between this session and the one that saved `state`, in words; empty if there are none."""
    then, now = state.get("circumstances", {}), circumstances(accelerator)
    different = [
        f"{name} {then[name]} then, {now[name]} now"
        for name in now
        if name in then and then[name] != now[name]
    ]
    if not different:
        return ""
    return (
        f"; it goes on as an unbroken run would up to rounding, and to what the network draws, such as dropout "
        f"({'; '.join(different)})"
    )


def steps_per_epoch(state: Mapping[str, Any]) -> int | None:
    """Steps of an epoch in the training that saved `state`; None if it does not tell.

    Older checkpoints do not hold the number, and tell it once an epoch is complete.
    """
    if "steps_per_epoch" in state:
        return state["steps_per_epoch"]
    progress = state["progress"]
    if not progress["epoch"]:
        return None
    return (progress["step"] - progress["step_in_epoch"]) // progress["epoch"]


def checkpoint_state(
    progress: Progress,
    window: Window,
    task: nn.Module,
    optimizer: Optimizer,
    accelerator: Accelerator,
    copy: Callable[[Tensor], Tensor],
) -> dict[str, Any]:
    """State from which training continues; every rank must call.

    Tensors are what `copy` makes of the task's own on the main rank, and None on the others; see
    `gather_to_main`.
    """
    return {
        "progress": progress.state(),
        "task": gather_to_main(task.state_dict(), accelerator, copy),
        "optimizer": gather_to_main(optimizer.state_dict(), accelerator, copy),
        # after the others, whose copies keep their places: the number of its tensors varies
        "window": gather_to_main(window.state(), accelerator, copy),
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler else None,
        "circumstances": circumstances(accelerator),
    }


def restore(
    state: dict[str, Any], task: nn.Module, optimizer: Optimizer, accelerator: Accelerator
) -> tuple[Progress, Window]:
    """Load a `checkpoint_state` into task, optimizer and scaler; return its progress and window."""
    weights, slots = scatter_state(state, task, optimizer)
    task.load_state_dict(weights)
    optimizer.load_state_dict(slots)
    if accelerator.scaler and state["scaler"]:
        accelerator.scaler.load_state_dict(state["scaler"])
    window = Window.restored(state.get("window", {}))
    window.sums = {name: value.to(accelerator.device) for name, value in window.sums.items()}
    return Progress(**state["progress"]), window
