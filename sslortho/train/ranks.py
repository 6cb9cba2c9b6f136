"""Ranks of a training: their processes, and which of them has ended."""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
    pid_space: str
    """Processes whose numbers ours can be compared with; see `name_pid_space`."""

    def has_ended(self) -> bool:
        """Whether the process, whose number is of this one's space, has exited or is a zombie."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return Path("/proc/self").exists()
        except (ProcessLookupError, IndexError):  # ended while we looked
            return True
        return state in "ZX"

    def __str__(self) -> str:
        return f"rank {self.number} (process {self.pid} on {self.host})"


def name_pid_space() -> str:
    """Name of the space of process numbers that this process lives in: one for processes that see each other.

    Containers and machines may share a host name, and have spaces of their own. Made of the host name and,
    where the system tells them, of the kernel's boot and the PID namespace.
    """
    parts = [socket.gethostname()]
    with suppress(OSError):  # not Linux, or hidden
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        parts += [boot, os.readlink("/proc/self/ns/pid")]  # noqa: PTH115 - it leads to no file
    return " ".join(parts)


GUARD_INTERVAL, GUARD_PATIENCE = 2.0, 20.0
"""Seconds between two looks of the guard, and seconds that it leaves for an orderly end."""


def end_process(message: str) -> None:
    """Print a message and end the process at once, whatever its threads wait for."""
    print(message, file=sys.stderr, flush=True)
    os._exit(1)


class RankWatch:
    """Watch over the ranks of a training. Every rank must create one, at the same time.

    Under gloo a lost rank is an exception. Under NCCL the others wait in the GPU's queue until its
    watchdog ends them without a name, after 10 minutes; so there a thread looks after the ranks of this
    machine (in a container, of this container).

    Args:
        accelerator: of this rank.
        patience: seconds to wait for a rank that is about to exit.
        guarded: whether that thread runs. Default: on GPUs.
    """

    def __init__(
        self, accelerator: Accelerator, patience: float = 5.0, guarded: bool | None = None
    ) -> None:
        self.guarded = accelerator.device.type != "cpu" if guarded is None else guarded
        number = accelerator.process_index
        self.ours = ours = Rank(number, socket.gethostname(), os.getpid(), name_pid_space())
        self.alone = accelerator.num_processes == 1
        self.ranks: list[Rank] = [ours] if self.alone else gather_object([ours])
        self.patience = patience

    def ended(self) -> list[Rank]:
        """Ranks of this machine that have ended; waits up to `patience` for one."""
        deadline = time.monotonic() + self.patience
        while True:
            found = self._find_ended()
            if found or time.monotonic() > deadline:
                return found
            time.sleep(0.05)

    def _find_ended(self) -> list[Rank]:
        beside = [r for r in self.ranks if r.pid_space == self.ours.pid_space and r != self.ours]
        return [rank for rank in beside if rank.has_ended()]

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Raise RankLostError, naming the rank, if communication inside fails because a rank has ended."""
        try:
            with self._guard(end_process):
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

    @contextmanager
    def _guard(
        self,
        end: Callable[[str], None],
        interval: float = GUARD_INTERVAL,
        patience: float = GUARD_PATIENCE,
    ) -> Iterator[None]:
        """Call `end` from a thread if a rank of this machine has ended and the block goes on."""
        if self.alone or not self.guarded:
            yield
            return
        over = threading.Event()

        def look() -> None:
            while not over.wait(interval):
                found = self._find_ended()
                # an exception, or the end of training, may be on its way
                if found and not over.wait(patience):
                    end(f"{self.ours}: {', '.join(map(str, found))} has ended; so does this one")
                    return

        thread = threading.Thread(target=look, name="rank guard", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
