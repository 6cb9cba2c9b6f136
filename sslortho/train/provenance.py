"""How a run's figures came about: command, versions, commit, hardware."""

import os
import platform
import shlex
import socket
import subprocess
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

PACKAGES = (
    "sslortho", "torch", "torchvision", "accelerate", "numpy", "numba", "timm", "scikit-learn",
    "pillow", "simplejpeg", "ffcv",
)  # fmt: skip
"""What figures depend on."""


def versions() -> dict[str, str]:
    """Versions of Python and of PACKAGES, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git(*arguments: str) -> str | None:
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def git_commit() -> str | None:
    """The commit of the checkout that this package runs from, "+changes" behind it if files of it have
    been changed since; None outside of a checkout."""
    top = _git("rev-parse", "--show-toplevel")
    if top is None or not (Path(top) / "sslortho" / "version.py").exists():
        return None  # installed into an environment that lies in somebody else's
    commit, changed = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "-uno")
    return f"{commit}+changes" if changed else commit


def hardware(accelerator: Accelerator) -> str:
    """The machine in words."""
    device = accelerator.device
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"CPU, {torch.get_num_threads()} threads of {os.cpu_count()}"
    return f"{accelerator.num_processes} process(es), {name}"


def settings(accelerator: Accelerator) -> dict[str, Any]:
    """What the bits of a run depend on beside its options and the versions."""
    return {
        "ranks": accelerator.num_processes,
        "machines": max(
            1, accelerator.num_processes // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        ),
        "threads": torch.get_num_threads(),
        "device": accelerator.device.type,
        "cpu": platform.processor() or platform.machine(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def provenance(accelerator: Accelerator, started: float) -> dict[str, Any]:
    """What a summary says of how its figures came about; `started` is a time.time()."""
    return {
        "seconds_this_session": time.time() - started,
        "command": shlex.join(["python", *sys.argv]),
        "directory": str(Path.cwd()),
        "git_commit": git_commit(),
        "host": socket.gethostname(),
        "hardware": hardware(accelerator),
        "settings": settings(accelerator),
        "versions": versions(),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
