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
from importlib import import_module
from pathlib import Path
from typing import Any

HANG_SECONDS = 120.0
"""A process that takes longer than this to do what is waited for is said to hang."""

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONUNBUFFERED": "1",  # a killed process loses nothing that it printed
}

# root may write into a folder of mode 0555 by two capabilities (1 CAP_DAC_OVERRIDE, 2
# CAP_DAC_READ_SEARCH); 24 is PR_CAPBSET_DROP: linux/capability.h, linux/prctl.h
DROP_PRIVILEGES = (
    "import ctypes, os, sys; libc = ctypes.CDLL(None); "
    "[libc.prctl(24, number, 0, 0, 0) for number in (1, 2)]; os.execvp(sys.argv[1], sys.argv[1:])"
)


def require_psutil() -> Any:
    """The module psutil. Raises ValueError with the command that installs it."""
    try:
        return import_module("psutil")
    except ImportError as error:
        raise ValueError("psutil is missing; pip install 'sslortho[bench]'") from error


def without_privileges(command: list[str]) -> list[str]:
    """The command without root's right to write into read-only folders."""
    return [sys.executable, "-c", DROP_PRIVILEGES, *command] if os.geteuid() == 0 else command


def restore_signals() -> None:
    """Stop ignoring SIGINT (set by background shells) and SIGHUP (nohup): children would inherit it."""
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


class Interrupted(Exception):
    """Raised in the threads of a soak that is being ended."""


class Child:
    """A started command whose output goes to two files."""

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
        """Lines in which a script says why it ends, without a progress bar before them."""
        return re.findall(r"\w+\.py: (?:error|stopped|interrupted).*", self.stderr)

    def send(self, number: int) -> None:
        """Send a signal to this process alone; does nothing if it has ended."""
        self.process.send_signal(number)

    def wait_until(self, holds: Callable[[], bool], pause: float = 0.005) -> bool:
        """Wait until `holds()`; False if the process ends or hangs before."""
        deadline = time.monotonic() + HANG_SECONDS
        while self.running and time.monotonic() < deadline:
            if holds():
                return True
            time.sleep(pause)
        return False

    def wait(self, seconds: float = HANG_SECONDS) -> int | None:
        """The exit code, negative for a signal. A process that hangs is killed; None for it."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill_family()
            return None

    def kill_family(self) -> None:
        """SIGKILL the process and all its descendants."""
        psutil = require_psutil()
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
    """Starts child processes; ends all of them when the soak is interrupted."""

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
        """Kill all children; `start` raises Interrupted from now on."""
        with self._lock:
            self.closed = True
            for child in self._children:
                child.kill_family()
