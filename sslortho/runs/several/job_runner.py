"""Jobs run as processes of their own, several at a time."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import IO, Any, Literal

from sslortho.runs.lock import is_held, lock_file
from sslortho.runs.several.jobs import Job
from sslortho.runs.several.places import job_environment
from sslortho.runs.status import read_status

POLL = 0.1
"""Seconds between two looks at the processes."""

LOCK_WAIT = 1.0
"""Seconds to wait for a log that something else has locked: a report locks it for an instant."""

SHOWN_LINES = 12
"""Lines of a log that are shown when its run fails."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)

Ending = Literal["finished", "failed", "stopped", "busy"]
"""How a job ended. finished: it has a summary, even if it diverged. stopped: it has none, since we were
asked to stop. busy: another process runs it. failed: anything else."""


@dataclass
class _Running:
    """A job that runs now."""

    job: Job
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    started: float
    log_start: int

    def log_tail(self) -> str:
        """The last lines that this process has written."""
        text = self.job.log.read_bytes()[self.log_start :].decode(errors="replace")
        lines = [line for line in text.replace("\r", "\n").split("\n") if line.strip()]
        return "\n".join(f"  | {line}" for line in lines[-SHOWN_LINES:])


@dataclass(frozen=True)
class Outcome:
    """How the jobs ended."""

    failed: tuple[str, ...] = ()
    """Names of those that failed."""
    busy: tuple[str, ...] = ()
    """Names of those that another process runs."""
    signal: int | None = None
    """Number of the signal that stopped them all, if one did."""


def _ignore(job: Job, ending: Ending) -> None:
    pass


class JobRunner:
    """Runs jobs, as many at a time as there are places; a failure does not stop the others.

    At SIGTERM, SIGUSR1, SIGHUP (a closed terminal) or Ctrl-C it starts no more jobs, passes SIGTERM on
    to the runs, which save what they have, and waits for them. A second signal kills them, unless it
    is SIGHUP.

    Args:
        places: GPUs of each job that runs at the same time, names with commas; None for no choice. A
            job with several GPUs runs as a process for each.
        say: called with each line of progress.
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
        """Run the jobs that are not finished, in order, and wait for them.

        Args:
            jobs: the next is taken when a place becomes free. None: there is none at the moment; the
                iterator is asked again later.
            ended: called for each job that ends, or is finished already.
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
                signal.signal(number, handler or signal.SIG_DFL)
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
        """Let runs that an error of ours leaves behind save what they have."""
        self._send(signal.SIGTERM)
        for run in self.running.values():
            run.process.wait()
            run.log.close()
        self.running.clear()

    def _listen(self) -> dict[int, Any]:
        """Handle signals; returns the handlers of before."""
        if threading.current_thread() is not threading.main_thread():
            return {}
        # nohup ignores it
        ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else set()
        numbers = [number for number in SIGNALS if number not in ignored]
        return {number: signal.signal(number, self._handle) for number in numbers}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first = self.signal in (None, signal.SIGHUP)
        # the end of a session sends SIGHUP and SIGTERM together, which is one request
        self._send(signal.SIGTERM if first or number == signal.SIGHUP else signal.SIGKILL)
        self.signal = number if first else self.signal

    def _tell(self, line: str) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone; the runs are not
            self.say(line)

    def _count_down(self, line: str, more: str = "") -> None:
        """Tell that a job has ended, and how many are left where that is known."""
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

    def _open_log(self, job: Job) -> IO[bytes] | None:
        """The job's log, locked; None if another process runs the job, or has finished it."""
        job.log.parent.mkdir(parents=True, exist_ok=True)
        log = job.log.open("ab")
        # the run inherits the lock and holds it even if we end: no two runs write one folder
        free = lock_file(log, LOCK_WAIT) is not False
        if (
            free and not job.finished and not is_held(job.folder / ".lock")
        ):  # by a run started by hand
            return log
        log.close()
        if free and job.finished:  # the process that held the log until now has finished it
            self._count_down(f"finished: {job.name}, by another process")
            self.ended(job, "finished")
        else:
            self.busy.append(job.name)
            self._count_down(f"busy: {job.name} is being run by another process")
            self.ended(job, "busy")
        return None

    def _start(self, job: Job, place: int) -> None:
        log = self._open_log(job)
        if log is None:
            return
        gpu = self.places[place]
        processes = len(gpu.split(",")) if gpu is not None else 1
        (job.folder / "status.json").unlink(missing_ok=True)  # of an earlier session
        command = job.command_line(processes)
        start = log.tell()
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=job_environment(gpu, len(self.places)),
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
        status = read_status(job.folder)
        failed_itself = status is not None and status.state == "failed"
        return "failed" if self.signal is None or failed_itself else "stopped"
