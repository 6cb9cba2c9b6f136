"""Provenance of a run: command, versions, commit, hardware."""

import os
import platform
import shlex
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sslortho.data import available_cores

if TYPE_CHECKING:
    from accelerate import Accelerator

PACKAGES = (
    "sslortho", "torch", "torchvision", "accelerate", "numpy", "numba", "timm", "scikit-learn",
    "pillow", "simplejpeg", "ffcv",
)  # fmt: skip
"""Packages that figures depend on."""

LAUNCHERS = {
    "ACCELERATE_MIXED_PRECISION": "accelerate launch",
    "TORCHELASTIC_RUN_ID": "torchrun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
}
"""Variable to the launcher that sets it; the first counts, since accelerate launch may use torchrun."""

GIT_PATIENCE = 3.0
"""Seconds that each call of git may take: a slow disk must not delay the end of a run."""


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
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True, text=True, timeout=GIT_PATIENCE, check=True,
        )  # fmt: skip
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def git_commit() -> str | None:
    """The commit of the checkout that this package runs from.

    "+changes" stands behind it if files of it have been changed since, "+unknown" if git does not say
    in time. None outside of a checkout, and without git.
    """
    top = _git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != Path(__file__).resolve().parents[2]:
        return None  # installed into an environment that lies in a checkout, of ours or another's
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git("status", "--porcelain", "-uno")
    if changed is None:
        return f"{commit}+unknown"
    return f"{commit}+changes" if changed else commit


def launcher() -> str:
    """Launcher of this process, as far as its environment tells."""
    return next((name for key, name in LAUNCHERS.items() if key in os.environ), "python")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """CPU, its widest vector instructions that torch uses (rounding depends on them), cores, GPU."""
    return {
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": available_cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def hardware(accelerator: "Accelerator") -> str:
    """The machine in words."""
    device = accelerator.device
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"CPU, {torch.get_num_threads()} threads of {os.cpu_count()}"
    return f"{accelerator.num_processes} process(es), {name}"


def settings(accelerator: "Accelerator") -> dict[str, Any]:
    """Ranks, threads, device, ...: the bits of a run depend on them, beside options and versions."""
    ranks = accelerator.num_processes
    on_this_machine = int(os.environ.get("LOCAL_WORLD_SIZE", str(ranks)))
    return {
        "ranks": ranks,
        "machines": max(1, ranks // on_this_machine),
        "launcher": launcher(),
        "threads": torch.get_num_threads(),
        "device": accelerator.device.type,
        "mixed_precision": accelerator.mixed_precision,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        **machine(),
    }


def command_line() -> str:
    """The command that started this process, as it would be typed."""
    program, *arguments = sys.argv
    if Path(program).name == "sslortho":
        return shlex.join(["sslortho", *arguments])
    if Path(program).parts[-2:] == ("sslortho", "__main__.py"):
        return shlex.join(["python", "-m", "sslortho", *arguments])
    return shlex.join(["python", program, *arguments])


@dataclass(frozen=True)
class Session:
    """A process at work on a run."""

    command: str
    """Command line that gives the same run."""
    started: float = field(default_factory=time.time)
    """time.time() at the start."""


def provenance(accelerator: "Accelerator", session: Session) -> dict[str, Any]:
    """Command, versions, commit, machine and settings of a run, for its summary.json.

    Args:
        accelerator: of the run. Only its main process, which writes summaries, asks git.
        session: command and start.
    """
    return {
        "seconds_this_session": time.time() - session.started,
        "command": session.command,
        "directory": str(Path.cwd()),
        "git_commit": git_commit() if accelerator.is_main_process else None,
        "host": socket.gethostname(),
        "hardware": hardware(accelerator),
        "settings": settings(accelerator),
        "versions": versions(),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
