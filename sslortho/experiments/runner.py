"""The runs of an experiment, each a process of its own, several at a time."""

import contextlib
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

import yaml

from sslortho.experiments.grid import Experiment

POLL = 0.1
"""Seconds between two looks at the processes."""

LOCK_WAIT = 1.0
"""Seconds to try for a log that something else has locked: a report does for an instant."""

TOLD_LINES = 12
"""Lines of a log that are shown when its run fails."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@dataclass(frozen=True)
class Job:
    """One run: a script, its options and where it writes."""

    name: str
    script: Path
    options: Mapping[str, Any]
    folder: Path
    log: Path

    @property
    def arguments(self) -> list[str]:
        """The options as a command line has them."""
        options = {**self.options, "out": str(self.folder)}
        return [text for name, value in options.items() for text in (f"--{name}", _to_text(value))]

    @property
    def finished(self) -> bool:
        """Whether it has written its summary."""
        return (self.folder / "summary.json").exists()


def _to_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def plan_jobs(
    experiment: Experiment, scripts: Path, out: Path, seeds: int, shared: Mapping[str, Any]
) -> list[Job]:
    """A job for every seed and cell: all cells with the first seed, then all with the second.

    Args:
        experiment: its cells.
        scripts: folder of the scripts.
        out: runs/NAME and logs/NAME.log are below it.
        seeds: from 0 to seeds - 1.
        shared: options of every run, such as data_dir; those that are None are left out.
    """
    given = {name: value for name, value in shared.items() if value is not None}
    return [
        Job(
            name=f"{cell.name}-s{seed}",
            script=scripts / experiment.script,
            options={"data": experiment.data, **given, **cell.options, "seed": seed},
            folder=out / "runs" / f"{cell.name}-s{seed}",
            log=out / "logs" / f"{cell.name}-s{seed}.log",
        )
        for seed in range(seeds)
        for cell in experiment.cells
    ]


def check_same_options(jobs: Sequence[Job], may_change: Collection[str]) -> None:
    """Raise ValueError if a run folder holds results of other options than its job has.

    may_change: options that do not matter to a run that is resumed. Nor does the number of threads
    matter to one that is finished.
    """
    for job in jobs:
        path = job.folder / "config.yaml"
        if not path.exists() or not (job.finished or any(job.folder.glob("checkpoints/*"))):
            continue
        stored = yaml.safe_load(path.read_text())
        for name, value in job.options.items():
            free = name in may_change or (name == "threads" and job.finished)
            ours = list(value) if isinstance(value, tuple) else value
            if not free and name in stored and stored[name] != ours:
                raise ValueError(
                    f"{job.folder} holds a run with {name}={stored[name]!r}, but {name}={ours!r} is "
                    f"asked for; give another --out, the same {name}, or remove that folder"
                )


def visible_gpus() -> list[str]:
    """Names of the GPUs for CUDA_VISIBLE_DEVICES; none on a machine without."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        names = [name.strip() for name in chosen.split(",")]
        return [] if "-1" in names else [name for name in names if name]
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    lines = [line for line in done.stdout.splitlines() if line.startswith("GPU ")]
    return [str(i) for i in range(len(lines))]


def _environment(gpu: str | None, places: int) -> dict[str, str]:
    """Of a run that has one GPU, or none, and a share of the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    environment = {"TQDM_MININTERVAL": "30", **os.environ}  # a log needs no ten bars a second
    if places > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (cores or 1) // places)))
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    return environment


def _lock(log: IO[bytes]) -> bool:
    """Have it to ourselves; whether that was to be had within LOCK_WAIT."""
    last = time.monotonic() + LOCK_WAIT
    while True:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= last:
                return False
            time.sleep(POLL)
        else:
            return True


@dataclass
class _Running:
    """A job under way."""

    job: Job
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    started: float
    log_start: int

    def log_tail(self) -> str:
        """The last lines of what this process has written."""
        text = self.job.log.read_bytes()[self.log_start :].decode(errors="replace")
        lines = [line for line in text.replace("\r", "\n").split("\n") if line.strip()]
        return "\n".join(f"  | {line}" for line in lines[-TOLD_LINES:])


@dataclass(frozen=True)
class Outcome:
    """How the runs went: names of those that failed, and the signal that stopped them, if one did."""

    failed: tuple[str, ...]
    signal: int | None


class Runner:
    """Runs jobs, as many at a time as there are places; a failure does not stop the others.

    SIGTERM, SIGUSR1 or Ctrl-C starts no more, passes SIGTERM on to the runs, which save what they
    have, and waits for them. A second one kills them.

    Args:
        places: the GPU of each job at work, or None.
        say: what to do with a line of progress.
    """

    def __init__(self, places: Sequence[str | None], say: Callable[[str], None] = print) -> None:
        self.places = list(places)
        self.say = say
        self.running: dict[int, _Running] = {}
        self.failed: list[str] = []
        self.signal: int | None = None
        self.left = 0

    def run(self, jobs: Sequence[Job]) -> Outcome:
        """Start what is not finished, in order, and wait for it."""
        waiting = deque(job for job in jobs if not job.finished)
        self.left = len(waiting)
        before = self._listen()
        try:
            while self.running or (waiting and self.signal is None):
                for place in range(len(self.places)):
                    if waiting and place not in self.running and self.signal is None:
                        self._start(waiting.popleft(), place)
                for place, run in list(self.running.items()):
                    if run.process.poll() is not None:
                        self._finish(self.running.pop(place))
                time.sleep(POLL)
        finally:
            self._send(signal.SIGTERM)  # an error of our own leaves none behind
            for number, handler in before.items():
                signal.signal(number, handler)
        return Outcome(tuple(self.failed), self.signal)

    def _listen(self) -> dict[int, Any]:
        """Handle signals; what handled them before."""
        if threading.current_thread() is not threading.main_thread():
            return {}
        return {number: signal.signal(number, self._handle) for number in SIGNALS}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._send(signal.SIGTERM if self.signal is None else signal.SIGKILL)
        self.signal = self.signal or number

    def _send(self, number: int) -> None:
        for run in list(self.running.values()):
            if run.process.poll() is None:
                if number == signal.SIGKILL:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(run.process.pid, number)
                else:
                    run.process.send_signal(number)

    def _start(self, job: Job, place: int) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        log = job.log.open("ab")
        # held by the run for as long as it lives, even if we do not: no two write one folder
        if not _lock(log):
            log.close()
            self.left -= 1
            self.failed.append(job.name)
            self.say(f"failed: {job.name} is being run by another process; {self.left} left")
            return
        command = [sys.executable, str(job.script), *job.arguments]
        start = log.tell()
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        gpu = self.places[place]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(gpu, len(self.places)),
            start_new_session=True,  # a terminal's Ctrl-C comes to them once, from us
        )
        self.running[place] = _Running(job, process, log, time.monotonic(), start)
        if self.signal is not None:  # it came while the process was being started
            process.send_signal(signal.SIGTERM)
        self.say(f"started: {job.name}{f' on GPU {gpu}' if gpu is not None else ''}")

    def _finish(self, run: _Running) -> None:
        run.log.close()
        job, code = run.job, run.process.returncode
        seconds = f"{time.monotonic() - run.started:.0f} s"
        if job.finished:
            self.left -= 1
            diverged = json.loads((job.folder / "summary.json").read_text()).get("diverged")
            what = "diverged" if diverged else "finished"
            self.say(f"{what}: {job.name} in {seconds}; {self.left} left")
        elif self.signal is not None:
            self.say(f"stopped: {job.name}")
        else:
            self.left -= 1
            self.failed.append(job.name)
            self.say(
                f"failed: {job.name} with exit code {code} after {seconds}; {self.left} left; "
                f"the end of {job.log}:\n{run.log_tail()}"
            )
