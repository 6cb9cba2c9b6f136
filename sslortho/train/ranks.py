"""Ranks of a training: their processes, and which of them has ended."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.distributed import DistError


class RankLostError(RuntimeError):
    """Another rank ended while this one was training."""


@dataclass(frozen=True)
class Rank:
    """One process of a training."""

    number: int
    host: str
    pid: int

    def has_ended(self) -> bool:
        """Whether the process, on this machine, has exited or is a zombie."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return Path("/proc/self").exists()
        except (ProcessLookupError, IndexError):  # ended while we looked
            return True
        return state in "ZX"

    def __str__(self) -> str:
        return f"rank {self.number} (process {self.pid} on {self.host})"


class RankWatch:
    """Watch over the ranks of a training. Every rank must create one, at the same time.

    Args:
        accelerator: of this rank.
        patience: seconds to wait for a rank that is about to exit.
    """

    def __init__(self, accelerator: Accelerator, patience: float = 5.0) -> None:
        ours = Rank(accelerator.process_index, socket.gethostname(), os.getpid())
        self.ours = ours
        self.alone = accelerator.num_processes == 1
        self.ranks: list[Rank] = [ours] if self.alone else gather_object([ours])
        self.patience = patience

    def ended(self) -> list[Rank]:
        """Ranks of this machine that have ended; waits up to `patience` for one."""
        beside = [r for r in self.ranks if r.host == self.ours.host and r != self.ours]
        deadline = time.monotonic() + self.patience
        while True:
            found = [rank for rank in beside if rank.has_ended()]
            if found or time.monotonic() > deadline:
                return found
            time.sleep(0.05)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Raise RankLostError, naming the rank, if communication inside fails because a rank has ended."""
        try:
            yield
        except RuntimeError as error:
            if self.alone or isinstance(error, RankLostError):
                raise
            if found := self.ended():
                raise RankLostError(f"{', '.join(map(str, found))} has ended") from error
            if isinstance(error, DistError) or "gloo" in str(error):
                raise RankLostError(
                    "another rank, of another machine or one that hangs, no longer answers "
                    f"({str(error).splitlines()[0][:200]}); the launcher tells which one failed first"
                ) from error
            raise
