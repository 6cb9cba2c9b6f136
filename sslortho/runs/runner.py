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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import IO, Any, Literal

from sslortho.runs.jobs import Job

POLL = 0.1
"""Seconds between two looks at the processes."""

LOCK_WAIT = 1.0
"""Seconds to try for a log that something else has locked: a report does for an instant."""

TOLD_LINES = 12
"""Lines of a log that are shown when its run fails."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)

Ending = Literal["finished", "failed", "stopped", "busy"]
"""Of a job: it has a summary (if it diverged too); none; none, since a signal stopped it; or another
process has it in hand."""


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


def choose_places(jobs: int | None, gpus_per_run: int = 1) -> list[str | None]:
    """The GPUs, names with commas, or None, of each of the runs at a time.

    Where `jobs` is None, as many as there are GPUs for, on a CPU one. Raises ValueError for more GPUs a
    run than there are.
    """
    gpus = visible_gpus()
    if not gpus and gpus_per_run == 1:
        return [None] * (jobs or 1)
    if len(gpus) < gpus_per_run:
        raise ValueError(f"gpus_per_run={gpus_per_run}, but {len(gpus)} GPUs are there; lower it")
    starts = range(0, len(gpus) - gpus_per_run + 1, gpus_per_run)
    groups = [",".join(gpus[start : start + gpus_per_run]) for start in starts]
    return [groups[i % len(groups)] for i in range(jobs or len(groups))]


def launcher(processes: int) -> list[str]:
    """What stands between `python` and a script that runs as so many processes."""
    if processes == 1:
        return []
    return ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]


def _environment(gpu: str | None, places: int) -> dict[str, str]:
    """Of a run that has these GPUs, or none, and a share of the cores."""
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
    """How the runs went."""

    failed: tuple[str, ...] = ()
    """Names of those that ended without a summary."""
    busy: tuple[str, ...] = ()
    """Names of those that another process has in hand."""
    signal: int | None = None
    """What stopped them, if one did."""


def _ignore(job: Job, ending: Ending) -> None:
    pass


class Runner:
    """Runs jobs, as many at a time as there are places; a failure does not stop the others.

    SIGTERM, SIGUSR1, SIGHUP (a terminal that is closed) or Ctrl-C starts no more, passes SIGTERM on to
    the runs, which save what they have, and waits for them. A second one but SIGHUP kills them.

    Args:
        places: the GPUs of each job at work, names with commas, or None. A job with several runs as
            a process for each.
        say: what to do with a line of progress.
    """

    def __init__(self, places: Sequence[str | None], say: Callable[[str], None] = print) -> None:
        self.places = list(places)
        self.say = say
        self.running: dict[int, _Running] = {}
        self.failed: list[str] = []
        self.busy: list[str] = []
        self.signal: int | None = None
        self.left: int | None = None
        self.ended: Callable[[Job, Ending], None] = _ignore

    def run(
        self, jobs: Iterable[Job | None], ended: Callable[[Job, Ending], None] = _ignore
    ) -> Outcome:
        """Start what is not finished, in order, and wait for it.

        Args:
            jobs: the next is taken when a place becomes free. None: there is none now, and it is
                asked for again.
            ended: called for each job that ends, or has ended already.
        """
        if isinstance(jobs, Sequence):
            self.left = sum(job is not None and not job.finished for job in jobs)
        self.ended = ended
        waiting, more = iter(jobs), True
        before = self._listen()
        try:
            while self.running or (more and self.signal is None):
                more = more and self._fill(waiting)
                for place, run in list(self.running.items()):
                    if run.process.poll() is not None:
                        self._finish(self.running.pop(place))
                time.sleep(POLL)
        finally:
            self._stop()
            for number, handler in before.items():
                signal.signal(number, handler)
        return Outcome(tuple(self.failed), tuple(self.busy), self.signal)

    def _fill(self, waiting: Iterator[Job | None]) -> bool:
        """Start a job on each free place; whether there may be more."""
        for place in range(len(self.places)):
            while place not in self.running and self.signal is None:
                try:
                    job = next(waiting)
                except StopIteration:
                    return False
                if job is None:
                    return True
                if job.finished:
                    self.ended(job, "finished")
                else:
                    self._start(job, place)
        return True

    def _stop(self) -> None:
        """Let the runs that an error of our own leaves behind save what they have."""
        self._send(signal.SIGTERM)
        for run in self.running.values():
            run.process.wait()
            run.log.close()
        self.running.clear()

    def _listen(self) -> dict[int, Any]:
        """Handle signals; what handled them before."""
        if threading.current_thread() is not threading.main_thread():
            return {}
        # nohup has it ignored
        ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else set()
        numbers = [number for number in SIGNALS if number not in ignored]
        return {number: signal.signal(number, self._handle) for number in numbers}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first = self.signal in (None, signal.SIGHUP)
        # the end of a session sends SIGHUP and SIGTERM together: that is one wish
        self._send(signal.SIGTERM if first or number == signal.SIGHUP else signal.SIGKILL)
        self.signal = number if first else self.signal

    def _tell(self, line: str) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone; the runs are not
            self.say(line)

    def _count_down(self, line: str, more: str = "") -> None:
        """Tell of a job that is over, and how many are left where that is known."""
        if self.left is not None:
            self.left -= 1
            line += f"; {self.left} left"
        self._tell(line + more)

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
            self.busy.append(job.name)
            self._count_down(f"busy: {job.name} is being run by another process")
            self.ended(job, "busy")
            return
        if job.finished:  # by whoever held it until now
            log.close()
            self._count_down(f"finished: {job.name}, by another process")
            self.ended(job, "finished")
            return
        gpu = self.places[place]
        processes = len(gpu.split(",")) if gpu is not None else 1
        command = [sys.executable, *launcher(processes), str(job.script), *job.arguments]
        start = log.tell()
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
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
        self._tell(f"started: {job.name}{f' on GPU {gpu}' if gpu is not None else ''}")

    def _finish(self, run: _Running) -> None:
        run.log.close()
        job, ending = run.job, self._ending(run.job)
        seconds = f"{time.monotonic() - run.started:.0f} s"
        if ending == "finished":
            diverged = json.loads((job.folder / "summary.json").read_text()).get("diverged")
            self._count_down(f"{'diverged' if diverged else 'finished'}: {job.name} in {seconds}")
        elif ending == "stopped":
            self._tell(f"stopped: {job.name}")
        else:
            self.failed.append(job.name)
            code = run.process.returncode
            self._count_down(
                f"failed: {job.name} with exit code {code} after {seconds}",
                f"; the end of {job.log}:\n{run.log_tail()}",
            )
        self.ended(job, ending)

    def _ending(self, job: Job) -> Ending:
        if job.finished:
            return "finished"
        return "failed" if self.signal is None else "stopped"
