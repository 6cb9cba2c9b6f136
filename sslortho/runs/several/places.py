"""Places that jobs run at: GPUs, or a share of the CPU."""

import os
import subprocess

from sslortho.runs.several.jobs import child_environment


def visible_gpus() -> list[str]:
    """Names of this machine's GPUs, as CUDA_VISIBLE_DEVICES has them."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        names = [name.strip() for name in chosen.split(",")]
        return [] if "-1" in names else [name for name in names if name]
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    lines = [line for line in done.stdout.splitlines() if line.startswith("GPU ")]
    return [str(i) for i in range(len(lines))]


def choose_places(jobs: int | None, gpus_per_run: int = 1) -> list[str | None]:
    """GPUs of each of the jobs that run at the same time: names with commas, None on a CPU.

    Args:
        jobs: number of places. Default: as many as there are GPUs for; one on a CPU.
        gpus_per_run: GPUs of each.

    Raises ValueError if there are fewer GPUs than `gpus_per_run`.
    """
    gpus = visible_gpus()
    if not gpus and gpus_per_run == 1:
        return [None] * (jobs or 1)
    if len(gpus) < gpus_per_run:
        raise ValueError(f"gpus_per_run={gpus_per_run}, but {len(gpus)} GPUs are there; lower it")
    starts = range(0, len(gpus) - gpus_per_run + 1, gpus_per_run)
    groups = [",".join(gpus[start : start + gpus_per_run]) for start in starts]
    return [groups[i % len(groups)] for i in range(jobs or len(groups))]


def job_environment(gpu: str | None, places: int) -> dict[str, str]:
    """Environment of a job at one of several places.

    Args:
        gpu: names of its GPUs with commas; None for no choice.
        places: number of places that share the cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # a log needs no progress bar ten times a second
    environment = {"TQDM_MININTERVAL": "30", **child_environment()}
    if places > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (cores or 1) // places)))
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    return environment
