"""Locks on files: one process at a time at work in a folder."""

import contextlib
import os
import time
import warnings
from pathlib import Path
from typing import IO

try:
    import fcntl
except ModuleNotFoundError as error:
    raise ImportError("run folders need the locks of a Unix system; on Windows use WSL") from error

PATIENCE = 1.0
"""Seconds to try for a lock: `is_held` of another process has it for an instant."""

_HELD: dict[Path, int] = {}


def hold_folder(folder: Path) -> None:
    """Lock a run folder, made if need be, until `release_folder`, or until this process ends.

    Warns where the file system has no locks, so that a second process would not be noticed.
    Raises ValueError if another process, or another run of this one, has it, or it cannot be written to.
    """
    path = folder.resolve() / ".lock"
    busy = ValueError(
        f"out={str(folder)!r}: another process is at work there; wait for it, stop it, or give "
        "another --out"
    )
    if path in _HELD and path.exists():
        raise busy
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ValueError(
            f"out={str(folder)!r} cannot be written to ({error.strerror}); give another folder"
        ) from error
    locked = lock_file(file)
    if locked is False:
        os.close(file)
        raise busy
    if locked is None:
        warnings.warn(
            f"the file system of {folder} has no locks: nothing prevents a second process from writing "
            "there, so start each run once",
            stacklevel=2,
        )
    _HELD[path] = file


def lock_file(file: int | IO[bytes], patience: float = PATIENCE) -> bool | None:
    """Lock an open file.

    False if another process still has it after `patience` seconds; None if its file system has no locks.
    """
    last = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > last:
                return False
            time.sleep(0.05)
        except OSError:
            return None
        else:
            return True


def release_folder(folder: Path) -> None:
    """Unlock a run folder; nothing if this process does not hold it."""
    file = _HELD.pop(folder.resolve() / ".lock", None)
    if file is None:
        return
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_UN)  # a forked worker may have the file open too
    os.close(file)


def is_held(path: Path) -> bool | None:
    """Whether a process has this file locked: the lock of a run folder, or the log of a run.

    None if that cannot be known: the file system has no locks, or this user may not read the file.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return None
    return False
