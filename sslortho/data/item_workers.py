"""Processes that read the items of a Dataset, for code that is not made for threads.

They are forked where the system can, so that each sees the Dataset in the memory of the first process, and
nothing is copied but what one of them writes.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
import weakref
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sslortho.data.dataset_items import Items

METHOD = "fork" if sys.platform == "linux" else "spawn"
"""How a process starts. spawn sends it the Dataset as a pickle; fork is not safe on macOS."""

LOOK = 2.0
"""Seconds after which a process looks whether the first one lives."""

GRACE = 60.0
"""Seconds for which a process goes on reading after SIGTERM, if the first one lives as long."""

_items: Items | None = None
"""The items, in a process that reads them."""


def outlive_signals(worker: int = 0) -> None:
    """Let this process go on when all processes get a signal, until the first one has saved.

    Ctrl-C, SLURM and systemd send it to all of them at once.

    Args:
        worker: unused; torch's DataLoader gives its number.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=end, daemon=True).start())

    def end() -> None:
        time.sleep(GRACE)
        os._exit(1)


def _begin(items: Items, parent: int) -> None:
    global _items
    _items = items
    torch.set_num_threads(1)  # OpenMP's threads do not live on after a fork
    outlive_signals()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _read(place: int) -> NDArray[np.uint8]:
    assert _items is not None
    return _items.read(place)


def _read_label(place: int) -> Any:
    assert _items is not None
    return _items.read_label(place)


class ItemReader:
    """Reads items, by several threads at a time: itself, or by processes.

    A copy of it in another process, such as one that makes views, reads the items itself there: the
    processes answer to the one that started them alone.

    Args:
        items: to be read.
        processes: number of processes; 0: the calling thread reads.
    """

    def __init__(self, items: Items, processes: int) -> None:
        self.items, self.processes = items, processes
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def __reduce__(self) -> "tuple[type[ItemReader], tuple[Items, int]]":
        return type(self), (self.items, 0)  # to a process that was spawned

    def _reads_itself(self) -> bool:
        return not self.processes or os.getpid() != self._owner

    def read(self, place: int) -> NDArray[np.uint8]:
        """Pixels (height, width, 3) of an item. Raises as `Items.read`."""
        if self._reads_itself():
            return self.items.read(place)
        return self._wait(self._submit(_read, place))

    def read_label(self, place: int) -> Any:
        """Label in an item; None if it has none."""
        if self._reads_itself():
            return self.items.read_label(place)
        return self._wait(self._submit(_read_label, place))

    def _submit(self, function: Any, place: int) -> "Future[Any]":
        with self._lock:
            try:
                if self._pool is not None:
                    return self._pool.submit(function, place)
                self._pool = self._start()
                # the first one starts the processes; what is caught is the whole process's, and so not for each
                with warnings.catch_warnings():
                    # that other threads run: torch's loaders fork so too
                    warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
                    return self._pool.submit(function, place)
            except BrokenProcessPool as error:
                raise self._describe_death() from error

    def _start(self) -> ProcessPoolExecutor:
        pool = ProcessPoolExecutor(
            self.processes,
            multiprocessing.get_context(METHOD),
            initializer=_begin,
            initargs=(self.items, os.getpid()),
        )
        weakref.finalize(self, pool.shutdown, wait=False, cancel_futures=True)
        return pool

    def _wait(self, future: "Future[Any]") -> Any:
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise self._describe_death() from error

    def _describe_death(self) -> RuntimeError:
        return RuntimeError(
            f"a process that reads {self.items.title} has died, perhaps of a lack of memory; fewer are "
            "started by --workers, none by --worker_type threads"
        )
