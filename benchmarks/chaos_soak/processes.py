"""Child processes of a soak: started with default signals, read while they run, never left behind."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

SCRIPTS = Path(__file__).parent.parent

PATIENCE = 120.0
"""Seconds for whatever has to happen at all; beyond them a process is said to hang."""

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONUNBUFFERED": "1",  # what a process has printed outlives it
}

# root may write into a folder of mode 0555 by two capabilities (1 CAP_DAC_OVERRIDE, 2
# CAP_DAC_READ_SEARCH); 24 is PR_CAPBSET_DROP: linux/capability.h, linux/prctl.h
DROP_PRIVILEGES = (
    "import ctypes, os, sys; libc = ctypes.CDLL(None); "
    "[libc.prctl(24, number, 0, 0, 0) for number in (1, 2)]; os.execvp(sys.argv[1], sys.argv[1:])"
)


def without_privileges(command: list[str]) -> list[str]:
    """The command, to be run without root's right to write where modes forbid it."""
    return [sys.executable, "-c", DROP_PRIVILEGES, *command] if os.geteuid() == 0 else command


def restore_signals() -> None:
    """Undo what a background shell does to SIGINT and nohup to SIGHUP: children would inherit it."""
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


class Interrupted(Exception):
    """The soak is being ended."""


class Child:
    """One started command; its output goes to two files."""

    def __init__(self, process: subprocess.Popen[bytes], stdout: Path, stderr: Path) -> None:
        self.process = process
        self.stdout_path = stdout
        self.stderr_path = stderr

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def stdout(self) -> str:
        return self.stdout_path.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text(errors="replace")

    @property
    def errors(self) -> list[str]:
        """The lines in which a script says why it ends, whatever a progress bar wrote before them."""
        return re.findall(r"\w+\.py: (?:error|stopped|interrupted).*", self.stderr)

    def send(self, number: int) -> None:
        """A signal to this process alone; none if it has ended."""
        self.process.send_signal(number)

    def wait_until(self, holds: Callable[[], bool], pause: float = 0.005) -> bool:
        """Whether something came to hold while the process ran."""
        deadline = time.monotonic() + PATIENCE
        while self.running and time.monotonic() < deadline:
            if holds():
                return True
            time.sleep(pause)
        return False

    def wait(self, seconds: float = PATIENCE) -> int | None:
        """The exit code, negative for a signal; None, and the process killed, if it hangs."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill_family()
            return None

    def kill_family(self) -> None:
        """SIGKILL to the process and all that it started."""
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        self.process.kill()
        self.process.wait()


class Nursery:
    """Starts children, and ends all of them when the soak is interrupted."""

    def __init__(self) -> None:
        self._children: set[Child] = set()
        self._lock = threading.Lock()
        self.closed = False

    def start(self, command: list[str], log: Path) -> Child:
        """Start a command whose output goes to `log`.out and `log`.err."""
        log.parent.mkdir(parents=True, exist_ok=True)
        stdout, stderr = log.with_suffix(".out"), log.with_suffix(".err")
        with self._lock:
            if self.closed:
                raise Interrupted
            with stdout.open("wb") as out, stderr.open("wb") as err:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env={**os.environ, **ENVIRONMENT},
                    start_new_session=True,  # Ctrl-C at the terminal is for the soak
                )
            self._children = {child for child in self._children if child.running}
            child = Child(process, stdout, stderr)
            self._children.add(child)
        return child

    def close(self) -> None:
        """Kill what runs; start nothing any more."""
        with self._lock:
            self.closed = True
            for child in self._children:
                child.kill_family()
