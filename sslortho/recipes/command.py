"""The way from options to an exit code that the commands with a run folder share."""

import signal
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from sslortho.recipes.command_line import user_errors
from sslortho.recipes.options import RunOptions

Some = TypeVar("Some", bound=RunOptions)


def call_run(run: Callable[[Some, Any], dict[str, Any]], options: Some, program: str) -> int:
    """Run a recipe for the command line; the exit code.

    0: finished. 1: diverged, stopped by an error of the training, or short of a GPU's memory. 2: a user's
    mistake. 128 + signal: stopped by a signal, saved, and can resume.

    Args:
        run: from options and `Session` to the summary.
        options: of the run.
        program: name for messages.
    """
    import torch

    from sslortho.runs.provenance import Session, command_line
    from sslortho.runs.status import RunStoppedError
    from sslortho.train.backward import NonFiniteError
    from sslortho.train.device_memory import DeviceMemoryError, describe_shortage
    from sslortho.train.ranks import RankLostError

    with user_errors(options.debug, program):
        try:
            summary = run(options, Session(command_line()))
        except RunStoppedError as stop:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left to interrupt
            return 128 + stop.number
        except (NonFiniteError, RankLostError, DeviceMemoryError) as error:
            print(f"{program}: stopped: {error}", file=sys.stderr)
            return 1
        except torch.OutOfMemoryError:  # in an evaluation
            if options.debug:
                raise
            advice = describe_shortage(options.values(), trains=False)
            print(f"{program}: stopped: {advice}", file=sys.stderr)
            return 1
    return 1 if summary.get("diverged") else 0
