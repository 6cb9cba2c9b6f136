"""Memory and error of the methods, and the share of a training step that OrthLARS takes."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sslortho.optim import LARS, OrthLARS
from sslortho.optim.polar_factor import LOWER_BOUND

from .gradients import group_parameters
from .options import BenchOptimOptions


def measure_seconds(function: Callable[[], Any], device: torch.device) -> float:
    """Seconds that a call takes, until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure_peak_memory(function: Callable[[], Any], device: torch.device) -> float | None:
    """MiB that a call needs beyond those in use before it; None where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    status = Path("/proc/self/status")

    def resident(key: str) -> float:
        line = next(line for line in status.read_text().splitlines() if line.startswith(key))
        return int(line.split()[1]) / 2**10

    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM to VmRSS: man 5 proc
    except OSError:
        return None
    before = resident("VmRSS")
    function()
    return max(0.0, resident("VmHWM") - before)


def measure_errors(
    gradients: list[Tensor], results: dict[str, list[Tensor]]
) -> dict[str, dict[str, float]]:
    """Worst and median of `| |Q v| - 1 |` over the right singular vectors v above LOWER_BOUND.

    Q is the result; u and v come from a float64 SVD of the gradient. "worst_direction_error" is the
    largest `|u^T Q v - 1|`.
    """
    found: dict[str, dict[str, list[Tensor]]] = {
        name: {"length": [], "direction": []} for name in results
    }
    for i, gradient in enumerate(gradients):
        u, s, vh = torch.linalg.svd(gradient.flatten(1).double().cpu(), full_matrices=False)
        kept = s >= LOWER_BOUND * s[0]
        for name, tensors in results.items():
            mapped = tensors[i].flatten(1).double().cpu() @ vh[kept].mT
            found[name]["length"].append((torch.linalg.vector_norm(mapped, dim=0) - 1).abs())
            found[name]["direction"].append(((u[:, kept] * mapped).sum(0) - 1).abs())
    return {
        name: {
            "worst_error": torch.cat(values["length"]).max().item(),
            "median_error": torch.cat(values["length"]).median().item(),
            "worst_direction_error": torch.cat(values["direction"]).max().item(),
        }
        for name, values in found.items()
    }


def measure_share(
    model: nn.Module, options: BenchOptimOptions, device: torch.device
) -> dict[str, float]:
    """Medians of a training step (two views, bfloat16 on a GPU): backward, OrthLARS, LARS."""
    torch.backends.cudnn.benchmark = device.type == "cuda"  # as in every training
    batch_size = options.batch_size or (256 if device.type == "cuda" else 8)
    images = torch.randn(batch_size, 3, options.side, options.side, device=device)
    images = images.to(memory_format=torch.channels_last)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    model.zero_grad()

    def backward() -> None:
        model.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = model(images).square().mean() + model(images).square().mean()
        loss.backward()

    seconds: dict[str, list[float]] = {"backward": [], "OrthLARS": [], "LARS": []}
    optimizers = {
        "OrthLARS": OrthLARS(group_parameters(model), lr=1e-6),
        "LARS": LARS(group_parameters(model), lr=1e-6),
    }
    for round_ in range(max(2, options.turns)):  # the first warms up
        for name, optimizer in optimizers.items():
            took = measure_seconds(backward, device), measure_seconds(optimizer.step, device)
            if round_:
                seconds["backward"].append(took[0])
                seconds[name].append(took[1])
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "batch_size": batch_size,
        "backward_seconds": median["backward"],
        "orth_lars_seconds": median["OrthLARS"],
        "lars_seconds": median["LARS"],
        "orth_lars_share": median["OrthLARS"] / (median["backward"] + median["OrthLARS"]),
    }
