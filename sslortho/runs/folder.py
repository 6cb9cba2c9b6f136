"""What every run folder holds at its beginning and at its end."""

import fcntl
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from accelerate import Accelerator
from torch import Tensor

from sslortho.train.checkpoint import write_atomically
from sslortho.train.records import draw_views

_HELD: dict[Path, int] = {}


def hold_folder(folder: Path) -> None:
    """Have a run folder to ourselves until this process ends; made if need be.

    Raises ValueError if another process has it.
    """
    path = folder.resolve() / ".lock"
    if path in _HELD and path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise ValueError(
            f"out={str(folder)!r}: another process is at work there; wait for it, stop it, or give "
            "another --out"
        ) from None
    except OSError:  # a file system without locks
        pass
    _HELD[path] = file


def prepare_folder(
    folder: Path,
    accelerator: Accelerator,
    config_yaml: str,
    options: dict[str, Any],
    views: tuple[Tensor, ...] | None = None,
) -> None:
    """config.yaml, views.png and the trackers, before the first step.

    Args:
        folder: made if need be.
        accelerator: only its main process writes.
        config_yaml: content of config.yaml.
        options: the same as plain values, for the trackers.
        views: of a batch, to be drawn.

    Raises ValueError if another process is at work in the folder.
    """
    if accelerator.is_main_process:
        hold_folder(folder)
        write_atomically(folder / "config.yaml", lambda file: file.write(config_yaml.encode()))
        if views is not None:
            draw_views(folder / "views.png", views)
    accelerator.wait_for_everyone()
    plain = (bool, int, float, str)  # what TensorBoard takes
    known = {
        name: value if isinstance(value, plain) else str(value)
        for name, value in options.items()
        if value is not None
    }
    accelerator.init_trackers("sslortho", config=known)


def finished_summary(folder: Path) -> dict[str, Any] | None:
    """The summary.json of a finished run, having said that it is finished; None if it is not."""
    path = folder / "summary.json"
    if not path.exists():
        return None
    print("this run is finished already; another --out starts a new one")
    return json.loads(path.read_text())


def exit_after_signal(number: int, step: int, accelerator: Accelerator) -> NoReturn:
    """End a script whose training was asked to stop, and has saved; exit code 128 + signal."""
    if accelerator.is_main_process:
        name = signal.Signals(number).name
        print(f"stopped by {name} at step {step}; the same command resumes")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C has nothing left to hasten
    accelerator.end_training()
    sys.exit(128 + number)
