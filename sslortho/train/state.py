"""What a checkpoint holds of a training, and putting it back."""

from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from sslortho.train.progress import Progress, Window


def checkpoint_state(
    progress: Progress,
    window: Window,
    task: nn.Module,
    optimizer: Optimizer,
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Everything that training goes on from; tensors are the task's own, not copies."""
    return {
        "progress": progress.state(),
        "window": window.state(),
        "task": accelerator.unwrap_model(task).state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler else None,
    }


def restore(
    state: dict[str, Any], task: nn.Module, optimizer: Optimizer, accelerator: Accelerator
) -> tuple[Progress, Window]:
    """Put a `checkpoint_state` back into task, optimizer and scaler; its progress and window."""
    accelerator.unwrap_model(task).load_state_dict(state["task"])
    optimizer.load_state_dict(state["optimizer"])
    if accelerator.scaler and state["scaler"]:
        accelerator.scaler.load_state_dict(state["scaler"])
    window = Window(**state.get("window", {}))  # older checkpoints have none
    window.sums = {name: value.to(accelerator.device) for name, value in window.sums.items()}
    return Progress(**state["progress"]), window
