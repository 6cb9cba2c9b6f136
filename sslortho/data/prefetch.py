"""Threads that make batches ahead of need, and the memory for these batches."""

import contextlib
import math
import os
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

AHEAD = 3
"""Batches that are being made, or finished, beyond the one in use."""

PART = 4
"""Samples that a thread takes at a time; few, so that no thread waits long for another's last part."""

Result = TypeVar("Result")


AT_ONCE = 4096
"""Items that are handed to the threads at a time: a future for each of millions takes gigabytes."""

A_PIECE = 16
"""Items that a thread takes at a time where each is quick: one by one the hand-over costs as much."""

CGROUP = Path("/sys/fs/cgroup")


def map_in_pieces(
    pool: ThreadPoolExecutor,
    function: Callable[[int], Result],
    indices: Sequence[int],
    piece: int = A_PIECE,
) -> Iterator[Result]:
    """The results for the indices, in order; a thread takes `piece` of them at a time."""
    for start in range(0, len(indices), AT_ONCE):
        part = indices[start : start + AT_ONCE]
        pieces = [part[i : i + piece] for i in range(0, len(part), piece)]
        for results in pool.map(lambda some: [function(index) for index in some], pieces):
            yield from results


def _quota() -> float:
    """Cores that the container may use, by its control group; infinite without a limit."""
    with contextlib.suppress(OSError, ValueError):
        most, period = (CGROUP / "cpu.max").read_text().split()
        return int(most) / int(period)  # "max" is no number
    with contextlib.suppress(OSError, ValueError):
        most, period = (
            int((CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
        )
        return most / period if most > 0 else math.inf
    return math.inf


def available_cores() -> int:
    """Number of cores that this process may use: by affinity, and by the limit of its container."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return max(1, math.ceil(min(cores, _quota())))


def share_of_cores() -> int:
    """Cores of this machine for each of its processes."""
    return max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@dataclass
class Job(Generic[Result]):
    """A batch that threads make in parts."""

    size: int
    """Number of samples."""
    fill: Callable[[int, int], None]
    """fill(first, last) makes samples first to last - 1; called by several threads."""
    finish: Callable[[], Result]
    """Makes the batch of the finished samples; called by the thread that takes the batch."""
    parts: list[Future[None]] = field(default_factory=list)

    def wait(self) -> None:
        """Wait until all samples are made; raises what `fill` raised."""
        for part in self.parts:
            part.result()


def run_ahead(
    jobs: Generator[Job[Result], None, None], threads: int, ahead: int = AHEAD
) -> Iterator[Result]:
    """Yield the results of the jobs, in order, and work ahead meanwhile.

    The threads go on to the next job without waiting for the last part of the one before, so one slow
    sample does not hold up the others. An error in a job is raised in the place of its result.

    Args:
        jobs: advanced by one thread of its own.
        threads: number of workers; with 0 the calling thread does everything.
        ahead: jobs to start beyond the one whose result is due, 1 or more.
    """
    if threads == 0:
        with contextlib.closing(jobs):
            for job in jobs:
                job.fill(0, job.size)
                yield job.finish()
        return
    pool, starter = ThreadPoolExecutor(threads, "loader"), ThreadPoolExecutor(1, "loader-jobs")

    def start() -> Job[Result] | None:
        job = next(jobs, None)
        if job is not None:
            for first in range(0, job.size, PART):
                last = min(first + PART, job.size)
                job.parts.append(pool.submit(job.fill, first, last))
        return job

    under_way = deque(starter.submit(start) for _ in range(ahead))
    try:
        while True:
            job = under_way.popleft().result()
            if job is None:
                return
            under_way.append(starter.submit(start))
            job.wait()
            yield job.finish()
    finally:
        starter.shutdown(wait=True, cancel_futures=True)
        pool.shutdown(wait=True, cancel_futures=True)
        jobs.close()


class Buffers:
    """Memory for the batches of one iteration, reused once no tensor over it is left.

    Fresh memory for every batch costs a page fault for every 4 KB, a tenth of the time that filling
    it takes. Pinned memory, for a GPU, is reused by torch's own allocator.
    """

    def __init__(self, pinned: bool) -> None:
        self.pinned = pinned
        self.kept: list[tuple[np.ndarray, torch.dtype, weakref.ref[np.ndarray]]] = []

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Uninitialised memory that no other tensor shares."""
        if self.pinned:
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        for place, (memory, its_dtype, handed_out) in enumerate(self.kept):
            if (memory.shape, its_dtype) == (shape, dtype) and handed_out() is None:
                # the tensor's storage, whoever shares it, keeps this object alive
                view = memory.view()
                self.kept[place] = (memory, dtype, weakref.ref(view))
                return torch.from_numpy(view)
        memory = torch.empty(shape, dtype=dtype).numpy()
        view = memory.view()
        self.kept.append((memory, dtype, weakref.ref(view)))
        return torch.from_numpy(view)
