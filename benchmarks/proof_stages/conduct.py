"""The conductor: stage by stage in processes of their own, within the time. Imports no torch."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from types import FrameType

from sslortho.options import to_arguments

from .context import Context
from .registry import Unit
from .results import Results

POLL = 0.1
"""Seconds between two looks at a process."""

SAVING_SECONDS = 25.0
"""Time that a training is given to save before the end."""

ERROR_LINES = 15
"""Lines of a log that a failure keeps."""


@dataclass
class Conductor:
    """Runs the units that are not done, until the time is over.

    Args:
        context: of the proof.
        units: in order.
        end: time (of `time.time`) at which the command must be over.
    """

    context: Context
    units: Sequence[Unit]
    end: float
    signal: int | None = None
    tried: set[str] = field(default_factory=set)

    @property
    def results(self) -> Results:
        return self.context.results

    def run(self) -> None:
        """Run what there is time for."""
        self._clear()
        before = {n: signal.signal(n, self._stop) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            for group in self._groups():
                while (todo := self._todo(group)) and self.signal is None:
                    self._work(todo)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _clear(self) -> None:
        """Forget units that an earlier command was ended in, and failures that are to be tried again."""
        for unit in self.units:
            state = self.results.state(unit.name)
            if state == "running" or (state == "failed" and self.context.options.retry):
                self.results.forget(unit.name)

    def _groups(self) -> Iterator[list[Unit]]:
        """Units that follow each other in one process: those of a stage; in a rehearsal all."""
        if self.context.small:
            yield list(self.units)
            return
        for _, group in groupby(self.units, key=lambda unit: unit.stage):
            yield list(group)

    def _todo(self, group: Sequence[Unit]) -> list[Unit]:
        left = self.end - time.time()
        return [
            unit
            for unit in group
            if self.results.state(unit.name) == "pending"
            and unit.name not in self.tried
            and left > (0 if self.context.small else unit.seconds)
        ]

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.signal = number

    def _work(self, todo: list[Unit]) -> None:
        """Start a worker for the units and wait for it; what it leaves behind gets a result."""
        log = self.context.work / f"{todo[0].stage}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            start = output.tell()
            process = subprocess.Popen(
                self._command(todo),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.context.environment(),
                start_new_session=True,  # a terminal's Ctrl-C comes to it once, from us
            )
            reason = self._watch(process, todo)
        for unit in todo:
            self._settle(unit, reason, process.returncode, log, start)
        if reason is None and self._todo(todo) == todo:  # or it would be started again for ever
            why = f"its process ended before it began, exit code {process.returncode}"
            self._fail(todo[0], 0.0, why, log, start)

    def _command(self, todo: Sequence[Unit]) -> list[str]:
        options = to_arguments(
            {n: v for n, v in self.context.options.values().items() if v is not None}
        )
        script = Path(__file__).parents[1] / "gpu_proof.py"
        names = ",".join(unit.name for unit in todo)
        return [sys.executable, str(script), "worker", names, str(self.end), *options]

    def _watch(self, process: "subprocess.Popen[bytes]", todo: Sequence[Unit]) -> str | None:
        """Wait for a worker. "over" if the time is, or if it was asked to stop; "limit" if a unit took too
        long; None if it ended by itself."""
        told: set[str] = set()
        while process.poll() is None:
            time.sleep(POLL)
            self._tell(todo, told)
            running = next((u for u in todo if self.results.state(u.name) == "running"), None)
            early = SAVING_SECONDS if running is not None and running.resumes else 0.0
            if self.signal is not None or time.time() > self.end - early:
                _end(process, SAVING_SECONDS if early else 2.0)
                return "over"
            if running is not None and time.time() > self._since(running) + running.limit:
                _end(process, 2.0)
                return "limit"
        self._tell(todo, told)
        return None

    def _since(self, unit: Unit) -> float:
        return self.results.read(unit.name).get("since", time.time())

    def _tell(self, todo: Sequence[Unit], told: set[str]) -> None:
        for unit in todo:
            result = self.results.read(unit.name)
            if unit.name not in told and result.get("state") in ("done", "failed", "skipped"):
                told.add(unit.name)
                reason = f": {result['error'].splitlines()[-1]}" if result.get("error") else ""
                print(
                    f"{unit.name}: {result['state']} in {result.get('seconds', 0):.0f} s{reason}",
                    flush=True,
                )

    def _settle(
        self, unit: Unit, reason: str | None, code: int | None, log: Path, start: int
    ) -> None:
        """Give a unit that a worker left running a result, or make it pending again."""
        if self.results.state(unit.name) != "running":
            return
        if reason == "over":
            self.tried.add(unit.name)
            self.results.forget(unit.name)
            print(f"{unit.name}: stopped, the same command goes on", flush=True)
            return
        why = f"took more than {unit.limit:.0f} s" if reason == "limit" else f"exit code {code}"
        self._fail(unit, time.time() - self._since(unit), why, log, start)

    def _fail(self, unit: Unit, seconds: float, why: str, log: Path, start: int) -> None:
        """Write a failure, with the end of what the log holds since `start`."""
        tail = log.read_bytes()[start:].decode(errors="replace").splitlines()[-ERROR_LINES:]
        self.results.write(unit.name, "failed", seconds=seconds, error="\n".join([*tail, why]))
        print(f"{unit.name}: failed, {why}; its log is {log}", flush=True)


def _end(process: "subprocess.Popen[bytes]", patience: float) -> None:
    """Ask a process to end, wait so many seconds, and kill it with all of its session."""
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
