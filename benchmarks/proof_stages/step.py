"""A training step of Barlow Twins and its parts, on views that are on the device already."""

import statistics
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optim_bench.measures import measure_seconds
from sslortho.models.placement import place_network
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.pretrain.resolve import resolve

from .context import Context

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "LARS": {"optim": "lars"},
    "Orthogonal-LARS": {"optim": "orth_lars"},
    "Orthogonal-LARS, momentum before": {
        "optim": "orth_lars", "momentum": 0.0, "orth_momentum": 0.9,
    },
    "Muon": {"optim": "muon"},
}  # fmt: skip

ROUNDS, STEPS = 10, 5
"""Rounds in which the optimizers take turns, and whole steps between two synchronisations."""


def measure(context: Context, backbone: str, size: int) -> dict[str, Any]:
    """Seconds of forward, backward and each optimizer alone, and of whole steps; peak memory.

    Args:
        context: of the proof.
        backbone: network by name.
        size: side of the views in pixels.
    """
    device, batch = context.device, 256
    torch.backends.cudnn.benchmark = device.type == "cuda"  # as in every training
    widths = "8192-8192-8192" if size > 64 else "2048-2048-2048"
    rounds, steps = ROUNDS, STEPS
    if context.small:
        backbone, size, batch, widths, rounds, steps = "basic_cnn", 16, 4, "8-8", 2, 1
    common = {"backbone": backbone, "crop_size": size, "projector": widths, "batch_size": batch}
    recipes = {n: resolve(PretrainOptions.of(**common, **own)) for n, own in OPTIMIZERS.items()}
    first = next(iter(recipes.values()))
    task = first.create_task()
    place_network(task, device, channels_last=True, sync_batch_norm=False)
    optimizers = {n: r.optimizer.over(task, r.lr_biases) for n, r in recipes.items()}
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] *= 1e-6  # hundreds of steps on noise
    views = tuple(torch.randn(batch, 3, size, size, device=device) for _ in range(2))
    views = tuple(view.to(memory_format=torch.channels_last) for view in views)
    parts = _Parts(task, views, device)
    figures = _time(parts, optimizers, rounds, steps)
    graphs = _time_graphs(parts, optimizers, rounds, steps)
    return {
        "backbone": backbone,
        "crop_size": size,
        "batch_size": batch,
        **figures,
        "graphs": graphs,
    }


class _Parts:
    """Forward and backward under autocast (bfloat16 on a GPU), apart and together."""

    def __init__(self, task: nn.Module, views: tuple[Tensor, ...], device: torch.device) -> None:
        self.task, self.views, self.device = task, views, device
        self.labels = torch.zeros(len(views[0]), dtype=torch.int64, device=device)
        self.loss: Tensor | None = None

    def forward(self) -> None:
        self.task.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            self.loss = self.task(self.views, self.labels)["loss"]

    def backward(self) -> None:
        assert self.loss is not None
        self.loss.backward()

    def whole(self, optimizer: Optimizer, steps: int) -> Callable[[], None]:
        def run() -> None:
            for _ in range(steps):
                self.forward()
                self.backward()
                optimizer.step()

        return run


def _time(
    parts: _Parts, optimizers: dict[str, Optimizer], rounds: int, steps: int
) -> dict[str, Any]:
    """Medians over the rounds; the first round warms up."""
    device = parts.device
    seconds: dict[str, list[float]] = {"forward": [], "backward": []}
    alone: dict[str, list[float]] = {name: [] for name in optimizers}
    whole: dict[str, list[float]] = {name: [] for name in optimizers}
    for round_ in range(rounds + 1):
        for name, optimizer in optimizers.items():
            took = (
                measure_seconds(parts.forward, device),
                measure_seconds(parts.backward, device),
                measure_seconds(optimizer.step, device),
                measure_seconds(parts.whole(optimizer, steps), device) / steps,
            )
            if round_:
                for values, value in zip(
                    (*seconds.values(), alone[name], whole[name]), took, strict=True
                ):
                    values.append(value)
    found = {name: statistics.median(values) for name, values in seconds.items()}
    described = {
        name: {
            "optimizer_seconds": statistics.median(alone[name]),
            "step_seconds": statistics.median(whole[name]),
            "synchronisations": _count_synchronisations(parts.whole(optimizer, 1), device),
        }
        for name, optimizer in optimizers.items()
    }
    return {**found, "optimizers": described, "peak_gib": _peak(parts, optimizers, device)}


def _time_graphs(
    parts: _Parts, optimizers: dict[str, Optimizer], rounds: int, steps: int
) -> dict[str, Any]:
    """Medians of whole steps with `--cuda_graphs`, or the error; the first round compiles and captures."""
    device = parts.device
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    try:
        if device.type == "cuda":
            parts.task.compile(mode="reduce-overhead")
        else:
            parts.task.compile(backend="eager")
        for _ in range(rounds + 1):
            for name, optimizer in optimizers.items():
                took = measure_seconds(parts.whole(optimizer, steps), device) / steps
                seconds[name].append(took)
    except Exception as error:  # what was measured without graphs is kept
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {name: {"step_seconds": statistics.median(took[1:])} for name, took in seconds.items()}


def _count_synchronisations(step: Callable[[], None], device: torch.device) -> int | None:
    """Times that the host waits for the GPU in a step, as torch tells; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def _peak(parts: _Parts, optimizers: dict[str, Optimizer], device: torch.device) -> float | None:
    """Most memory of a step in GiB, of the optimizer that needs most; None on a CPU. All optimizers'
    buffers are there."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    for optimizer in optimizers.values():
        parts.whole(optimizer, 1)()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) / 2**30
