"""Time orthonormalisation beside the ways that others take: `python scripts/bench_optim.py`.

Every method replaces the same gradients, in turn, round after round; a ratio is the median over the
rounds. Prints a table for each network, writes bench_optim.json and bench_optim.png.
"""

import functools
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
import torchvision
from sklearn.datasets import load_digits
from torch import Tensor, nn

from bench_options import BenchOptimOptions
from sslortho.recipes.command_line import parse_config, user_errors
from sslortho.optim import LARS, OrthLARS, orthonormalise_, param_groups
from sslortho.optim.polar_factor.gram_iteration import apply_quintics
from sslortho.optim.polar_factor.polynomials import newton_schulz_schedule
from sslortho.optim.polar_factor.factor import LOWER_BOUND, TOLERANCE
from sslortho.runs.provenance import versions

MUON = (3.4445, -4.7750, 2.0315)
"""Coefficients of torch.optim.Muon, applied five times."""


def replace_by_svd(parameters: list[nn.Parameter]) -> None:
    """The authors' way: one SVD after another."""
    for p in parameters:
        assert p.grad is not None
        u, _, vh = torch.linalg.svd(p.grad.reshape(len(p), -1), full_matrices=False)
        p.grad.copy_((u @ vh).view_as(p))


def _one_by_one(parameters: list[nn.Parameter], solve: Callable[[Tensor], Tensor]) -> None:
    for p in parameters:
        assert p.grad is not None
        matrix = p.grad.reshape(len(p), -1)
        tall = matrix.shape[0] > matrix.shape[1]
        factor = solve(matrix.mT if tall else matrix)
        p.grad.copy_((factor.mT if tall else factor).reshape(p.shape))


def replace_by_muon(parameters: list[nn.Parameter], dtype: torch.dtype) -> None:
    """The iteration of torch.optim.Muon, which takes bfloat16."""

    def iterate(matrix: Tensor) -> Tensor:
        x = matrix.to(dtype)
        x = x / x.norm().clamp(min=1e-7)
        a, b, c = MUON
        for _ in range(5):
            gram = x @ x.mT
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x

    _one_by_one(parameters, iterate)


def replace_by_newton_schulz(parameters: list[nn.Parameter]) -> None:
    """The quintic that converges, on whole matrices one after another, until it has converged."""

    def iterate(matrix: Tensor) -> Tensor:
        schedule = newton_schulz_schedule(LOWER_BOUND / min(matrix.shape) ** 0.5, TOLERANCE)
        return apply_quintics(matrix / torch.linalg.matrix_norm(matrix), schedule)

    _one_by_one(parameters, iterate)


METHODS: dict[str, Callable[[list[nn.Parameter]], None]] = {
    "SVD, one by one": replace_by_svd,
    "Muon, float32": functools.partial(replace_by_muon, dtype=torch.float32),
    "Muon, bfloat16": functools.partial(replace_by_muon, dtype=torch.bfloat16),
    "Newton-Schulz": replace_by_newton_schulz,
    "ours, polar_express": functools.partial(orthonormalise_, polar="polar_express"),
    "ours": orthonormalise_,
}


def create_model(name: str, image_size: int, device: torch.device) -> nn.Module:
    """A torchvision network; vision transformers take the image size."""
    options = {"image_size": image_size} if name.startswith("vit") else {}
    torch.manual_seed(0)
    return torchvision.models.get_model(name, num_classes=10, **options).to(device)


def chosen_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Convolutions, as in pretraining; of a transformer every matrix."""
    transformer = any(isinstance(module, nn.MultiheadAttention) for module in model.modules())
    groups = param_groups(model, orth="all" if transformer else "conv")
    return [p for group in groups if group["orth"] for p in group["params"]]


def train_on_digits(model: nn.Module, config: BenchOptimOptions, device: torch.device) -> None:
    """Some steps of SGD on embedded images, so that the gradients left behind are real ones."""
    pixels, targets = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8).expand(-1, 3, -1, -1) / 16
    labels = torch.tensor(targets)
    vit = any(isinstance(module, nn.MultiheadAttention) for module in model.modules())
    size = config.image_size if vit else 64
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for step in range(config.steps + 1):
        chosen = torch.randint(len(images), (16 if vit else 64,), generator=generator)
        batch = nn.functional.interpolate(images[chosen], size=size, mode="bilinear").to(device)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch), labels[chosen].to(device)).backward()
        if step < config.steps:
            optimizer.step()


def with_spectrum(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """A tensor whose matrix has singular values from 1 to 1e-3."""
    rows, columns = shape[0], shape[1:].numel()
    small = min(rows, columns)
    u, v = (
        torch.linalg.qr(torch.randn(side, small, generator=generator))[0]
        for side in (rows, columns)
    )
    return ((u * torch.logspace(0, -3, small)) @ v.mT).view(shape)


def draw_gradients(
    model: nn.Module, parameters: list[nn.Parameter], config: BenchOptimOptions, device: torch.device
) -> list[Tensor]:
    """One gradient a parameter, of the kind that the configuration names."""
    generator = torch.Generator().manual_seed(0)
    if config.gradients == "real":
        train_on_digits(model, config, device)
        return [p.grad.clone() for p in parameters if p.grad is not None]
    draw = with_spectrum if config.gradients == "spectrum" else None
    return [
        (draw(p.shape, generator) if draw else torch.randn(p.shape, generator=generator)).to(device)
        for p in parameters
    ]


def timed(function: Callable[[], Any], device: torch.device) -> float:
    """Seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def peak_memory(function: Callable[[], Any], device: torch.device) -> float | None:
    """MiB at the peak over what was there before; None where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    status = Path("/proc/self/status")

    def resident(key: str) -> float:
        line = next(line for line in status.read_text().splitlines() if line.startswith(key))
        return int(line.split()[1]) / 2**10

    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    before = resident("VmRSS")
    function()
    return max(0.0, resident("VmHWM") - before)


def errors(gradients: list[Tensor], results: dict[str, list[Tensor]]) -> dict[str, dict]:
    """Worst and median of `| |Q v| - 1 |` over the right singular vectors v above LOWER_BOUND.

    Q is the result, v of a float64 SVD of the gradient; "direction" is the worst `|u^T Q v - 1|`.
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
    model: nn.Module, config: BenchOptimOptions, device: torch.device
) -> dict[str, float]:
    """How much of a training step OrthLARS takes, and LARS: two views, bfloat16 on a GPU."""
    batch_size = config.batch_size or (256 if device.type == "cuda" else 8)
    images = torch.randn(batch_size, 3, config.image_size, config.image_size, device=device)
    images = images.to(memory_format=torch.channels_last)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    model.zero_grad()

    def backward() -> None:
        model.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = model(images).square().mean() + model(images).square().mean()
        loss.backward()

    seconds: dict[str, list[float]] = {"backward": [], "OrthLARS": [], "LARS": []}
    transformer = any(isinstance(module, nn.MultiheadAttention) for module in model.modules())
    groups = functools.partial(param_groups, model, orth="all" if transformer else "conv")
    optimizers = {"OrthLARS": OrthLARS(groups(), lr=1e-6), "LARS": LARS(groups(), lr=1e-6)}
    for round_ in range(max(2, config.rounds)):
        for name, optimizer in optimizers.items():
            took = timed(backward, device), timed(optimizer.step, device)
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


def run_rounds(
    parameters: list[nn.Parameter],
    gradients: list[Tensor],
    config: BenchOptimOptions,
    device: torch.device,
) -> tuple[dict[str, dict], dict[str, list[Tensor]]]:
    """Times, ratios and memory of every method, and what it made of the gradients."""
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    results: dict[str, list[Tensor]] = {}
    memory: dict[str, float | None] = {}
    for round_ in range(config.rounds + 1):  # the first warms up, and looks at results and memory
        for name, method in METHODS.items():
            for p, gradient in zip(parameters, gradients, strict=True):
                p.grad = gradient.clone()
            step = functools.partial(method, parameters)
            if round_:
                seconds[name].append(timed(step, device))
            else:
                memory[name] = peak_memory(step, device)
                results[name] = [p.grad for p in parameters if p.grad is not None]
    loop = seconds["SVD, one by one"]
    figures = {
        name: {
            "seconds": statistics.median(values),
            "fastest": min(values),
            "ratio": statistics.median(a / b for a, b in zip(loop, values, strict=True)),
            "peak_mib": memory[name],
        }
        for name, values in seconds.items()
    }
    return figures, results


def print_table(name: str, figures: dict[str, Any]) -> None:
    """The figures of one network."""
    print(f"\n{name}: {figures['matrices']} matrices, {figures['entries'] / 1e6:.1f} M entries\n")
    print("| method | seconds | times faster | peak MiB | median error | worst | worst direction |")
    print("|---|---|---|---|---|---|---|")
    for method, row in figures["methods"].items():
        cells = [f"{row['seconds']:.4f}", f"{row['ratio']:.2f}"]
        cells.append("" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}")
        keys = ("median_error", "worst_error", "worst_direction_error")
        cells += [f"{row[key]:.1e}" if key in row else "" for key in keys]
        print(f"| {method} | {' | '.join(cells)} |")
    share = figures["step"]
    print(
        f"\nOf a training step with {share['batch_size']} x 2 images ({share['backward_seconds']:.3f}"
        f" s forward and backward) OrthLARS takes {100 * share['orth_lars_share']:.1f} %"
        f" ({share['orth_lars_seconds']:.4f} s; LARS {share['lars_seconds']:.4f} s).",
        flush=True,
    )


def draw_plot(path: Path, report: dict[str, Any]) -> None:
    """How many times faster than the loop over SVDs."""
    models = report["models"]
    figure, axes = plt.subplots(1, len(models), figsize=(4 * len(models), 3), squeeze=False)
    for axis, (name, figures) in zip(axes[0], models.items(), strict=True):
        rows = figures["methods"]
        colours = ["C1" if method == "ours" else "C0" for method in rows]
        bars = axis.barh(list(rows), [row["ratio"] for row in rows.values()], color=colours)
        axis.bar_label(bars, fmt="%.1f", padding=2)
        axis.set_title(name)
        axis.set_xlabel("times faster than SVDs")
        axis.margins(x=0.15)
        axis.invert_yaxis()
        axis.label_outer()
    figure.suptitle(f"{report['gradients']} gradients, {report['device']}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def choose_device(name: str) -> torch.device:
    """The device; raises ValueError for one that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        float(torch.zeros((), device=device))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device={name!r} is not here: {str(error).splitlines()[0]}") from error
    return device


def choose_models(models: str) -> list[str]:
    """The names; raises ValueError for one that torchvision has not."""
    names = [name.strip() for name in models.split(",")]
    if unknown := [name for name in names if name not in torchvision.models.list_models()]:
        raise ValueError(f"models={models!r}: torchvision has no {', '.join(unknown)}")
    return names


def main() -> None:
    config = parse_config(BenchOptimOptions)
    with user_errors(config.debug):
        device, names = choose_device(config.device), choose_models(config.models)
        out = Path(config.out).expanduser()
        out.mkdir(parents=True, exist_ok=True)  # before minutes of work
    report: dict[str, Any] = {
        "command": shlex.join(sys.argv),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "gradients": config.gradients,
        "versions": versions(),
        "models": {},
    }
    for name in names:
        model = create_model(name, config.image_size, device)
        parameters = chosen_parameters(model)
        gradients = draw_gradients(model, parameters, config, device)
        methods, results = run_rounds(parameters, gradients, config, device)
        if config.errors:
            for method, found in errors(gradients, results).items():
                methods[method].update(found)
        report["models"][name] = {
            "matrices": len(parameters),
            "entries": sum(p.numel() for p in parameters),
            "methods": methods,
            "step": measure_share(model, config, device),
        }
        print_table(name, report["models"][name])
    (out / "bench_optim.json").write_text(json.dumps(report, indent=2) + "\n")
    draw_plot(out / "bench_optim.png", report)
    print(f"\n{out}/bench_optim.json, {out}/bench_optim.png")


if __name__ == "__main__":
    main()
