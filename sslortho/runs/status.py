"""status.json of a run folder: the state that the run is in."""

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from sslortho.atomic import atomic_file
from sslortho.runs.lock import is_held, release_folder

State = Literal["running", "finished", "stopped", "failed", "killed"]
"""stopped: asked to stop by a signal, saved, and can resume. failed: ended by an error. killed: ended
without a word, by SIGKILL or a power cut; no file says so, it is read from the folder's lock, and where
there are no locks from the process's number."""

FILE = "status.json"


class RunStoppedError(Exception):
    """A signal asked the run to stop; it has saved and can resume.

    Args:
        number: of the signal.
        step: optimizer steps taken.
    """

    def __init__(self, number: int, step: int) -> None:
        self.number, self.step = number, step
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} at step {step}; the same command resumes")


@dataclass(frozen=True)
class Status:
    """Content of status.json."""

    state: State
    message: str | None
    """Reason of a run that stopped or failed."""
    error: str | None = None
    """Class of the error that ended it; None in files of versions that did not write it."""


def write_status(
    folder: Path, state: State, message: str | None = None, error: str | None = None
) -> None:
    """Write status.json: state, message, class of the error, process, host and time (UTC)."""
    content = {
        "state": state,
        "message": message,
        "error": error,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    with atomic_file(folder / FILE) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


def read_status(folder: Path) -> Status | None:
    """State of the run in a folder; None where no file says it.

    A run with a summary.json is "finished". One that is "running" by its status.json and has no process
    is "killed". Where the file system has no locks, a run of another machine stays "running".
    """
    if (folder / "summary.json").exists():
        return Status("finished", None)
    try:
        content: Any = json.loads((folder / FILE).read_text())
        state, message = content["state"], content["message"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if state == "running" and not _is_alive(folder, content):
        return Status("killed", None)
    return Status(state, message, content.get("error"))


def _is_alive(folder: Path, content: dict[str, Any]) -> bool:
    """Whether the process of a run exists: by its lock, or else by what status.json holds; True if in doubt."""
    held = is_held(folder / ".lock")
    if held is not None:
        return held
    number = content.get("pid")
    if content.get("host") != socket.gethostname() or not isinstance(number, int):
        return True
    try:
        os.kill(number, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of another user
        return True
    return True


@contextlib.contextmanager
def status_of(folder: Path, writes: bool) -> Iterator[None]:
    """Keep status.json while the block runs: running, then finished, stopped or failed.

    At the end the folder is released, so that another process may resume while this one lives on.

    Args:
        folder: of the run; held by this process.
        writes: whether this process writes; of several ranks the main one alone.
    """
    try:
        if writes:
            write_status(folder, "running")
        yield
    except BaseException as error:
        if writes:
            give_up(folder, error)
        raise
    if writes:
        try:
            write_status(folder, "finished")
        finally:
            release_folder(folder)


def give_up(folder: Path, error: BaseException) -> None:
    """Write the state of a run that an error ends, if the disk lets us, and release its folder."""
    stopped = isinstance(error, RunStoppedError)
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyboardInterrupt):
        reason = "interrupted"
    with contextlib.suppress(OSError):  # the disk may be full, the folder gone
        write_status(folder, "stopped" if stopped else "failed", reason, type(error).__name__)
    release_folder(folder)
