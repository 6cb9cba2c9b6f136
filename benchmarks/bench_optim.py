"""Time orthonormalisation beside other libraries' methods: `python benchmarks/bench_optim.py`.

Every method replaces the same gradients. The methods take turns, round after round, and a ratio is
the median over the rounds. Prints a table for each network; writes bench_optim.json and
bench_optim.png.
"""

import json
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
import torchvision

from optim_bench.gpu_methods import find_methods
from optim_bench.gradients import create_gradients, create_model, select_parameters
from optim_bench.measures import measure_errors, measure_share
from optim_bench.methods import BFLOAT16
from optim_bench.options import BenchOptimOptions
from optim_bench.results import draw_plot, print_table
from optim_bench.rounds import run_rounds
from sslortho.atomic import atomic_file
from sslortho.recipes.command_line import parse_options, user_errors
from sslortho.runs.provenance import git_commit, machine, versions


def choose_device(name: str) -> torch.device:
    """The device. Raises ValueError if this machine does not have it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        float(torch.zeros((), device=device))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device={name!r} is not here: {str(error).splitlines()[0]}") from error
    return device


def choose_models(models: str) -> list[str]:
    """The names between the commas. Raises ValueError for a name that torchvision does not have."""
    names = [name.strip() for name in models.split(",")]
    if unknown := [name for name in names if name not in torchvision.models.list_models()]:
        raise ValueError(f"models={models!r}: torchvision has no {', '.join(unknown)}")
    return names


def measure_model(name: str, options: BenchOptimOptions, device: torch.device) -> dict[str, Any]:
    """All figures of one network, as bench_optim.json has them."""
    print(f"{name}: gradients", file=sys.stderr, flush=True)
    model = create_model(name, options.side, device)
    parameters = select_parameters(model)
    gradients = create_gradients(model, parameters, options, device)
    chosen = find_methods(device)
    if not options.bfloat16 or (options.quick and device.type == "cpu"):
        chosen = {method: call for method, call in chosen.items() if method not in BFLOAT16}
    methods, results = run_rounds(chosen, parameters, gradients, options.turns, device)
    if options.errors:
        print(f"{name}: errors", file=sys.stderr, flush=True)
        for method, errors in measure_errors(gradients, results).items():
            methods[method].update(errors)
    print(f"{name}: training steps", file=sys.stderr, flush=True)
    return {
        "matrices": len(parameters),
        "entries": sum(p.numel() for p in parameters),
        "methods": methods,
        "step": measure_share(model, options, device),
    }


def main() -> None:
    options = parse_options(BenchOptimOptions)
    with user_errors(options.debug):
        device, names = choose_device(options.device), choose_models(options.names)
        out = Path(options.out)
        out.mkdir(parents=True, exist_ok=True)  # before minutes of work
    report: dict[str, Any] = {
        "command": shlex.join(sys.argv),
        "machine": machine(),
        "commit": git_commit(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "gradients": options.gradients,
        "quick": options.quick,
        "versions": versions(),
        "models": {},
    }
    for name in names:
        report["models"][name] = measure_model(name, options, device)
        print_table(name, report["models"][name])
        with atomic_file(out / "bench_optim.json") as file:  # what follows may fail
            file.write((json.dumps(report, indent=2) + "\n").encode())
    draw_plot(out / "bench_optim.png", report)
    print(f"\n{out}/bench_optim.json, {out}/bench_optim.png")


if __name__ == "__main__":
    main()
