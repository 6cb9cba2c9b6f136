"""Lines that one process of all ranks prints."""

import os
import sys

from torch import distributed


def is_first_rank() -> bool:
    """Whether this process is the first of all ranks, also before they have a process group."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank() == 0
    return int(os.environ.get("RANK", "0")) == 0


def say(line: str) -> None:
    """Print a line about the data, on the first rank alone, to standard error."""
    if is_first_rank():
        print(line, file=sys.stderr)
