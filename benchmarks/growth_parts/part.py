"""A part of the benchmark: one kind of work at several sizes, each measured in a process of its own."""

import contextlib
import ctypes
import gc
import multiprocessing
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

IMAGENET = 1_281_167
"""Training images of ImageNet-1k."""

Work = Callable[[], object]
"""The work that is measured."""


@dataclass(frozen=True)
class Part:
    """One kind of work.

    Attributes:
        what: the work, in words, with everything that is held fixed.
        unit: of `sizes`.
        prepare: from a size and the folder for made-up data to the work. It is not measured, and runs in the
            same process.
        sizes, quick: that are measured, ascending; those of --quick.
        target: size that the table asks about; beyond the largest measured one it is fitted.
        ranks: processes that do the work together.
    """

    what: str
    unit: str
    prepare: Callable[[int, Path], Work]
    sizes: tuple[int, ...]
    quick: tuple[int, ...]
    target: int
    ranks: int = 1


STATUS = Path("/proc/self/status")


def _peak() -> int:
    """Largest memory of this process so far, or since `_forget_peak`, in bytes."""
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _forget_peak() -> None:
    """Give back what is free, and let the peak be what is held now, where the system can (Linux)."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # man 5 proc


def _measure(part: Part, size: int, folder: Path, rounds: int) -> dict[str, Any]:
    work = part.prepare(size, folder)
    _forget_peak()
    before, seconds = _peak(), []
    for _ in range(rounds):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return {"seconds": seconds, "peak_bytes": max(0, _peak() - before)}


def _rank(
    part: Part, size: int, folder: Path, rounds: int, rank: int, meeting: Path, out: Any
) -> None:
    """Work of one of the processes: join the others, measure, and send the figures or the fault."""
    try:
        torch.set_num_threads(1)
        if part.ranks > 1:
            torch.distributed.init_process_group(
                "gloo", f"file://{meeting}", rank=rank, world_size=part.ranks
            )
        out.send(_measure(part, size, folder, rounds))
    except BaseException as error:
        out.send(f"{type(error).__name__}: {error}")
        raise
    finally:
        out.close()


def measure(part: Part, size: int, folder: Path, rounds: int) -> dict[str, Any]:
    """Measure a part at one size.

    Args:
        part: what is measured.
        size: of the work.
        folder: for made-up data, which stays there for other parts.
        rounds: times that the work is done.

    Returns:
        "seconds": median of the rounds, in processor time of all threads, that of the rank that took most;
        "rounds": of each; "peak_bytes": memory that the work took beyond what was held before it, of the
        rank that took most.

    Raises RuntimeError with the fault of a process.
    """
    meeting = folder / "meeting"
    meeting.unlink(missing_ok=True)
    # the child begins with the modules of this process, which has done no work with threads
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(part.ranks)]
    processes = [
        context.Process(target=_rank, args=(part, size, folder, rounds, rank, meeting, pipe[1]))
        for rank, pipe in enumerate(pipes)
    ]
    with warnings.catch_warnings():
        # of Python 3.12, where others have started threads; those that fork here use none of them
        warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
        for process in processes:
            process.start()
    for _, sending in pipes:
        sending.close()  # or the death of a process would not be seen
    found = [_receive(receiving) for receiving, _ in pipes]
    for process in processes:
        process.join()
    slowest = max(found, key=lambda figures: statistics.median(figures["seconds"]))
    return {
        "seconds": statistics.median(slowest["seconds"]),
        "rounds": slowest["seconds"],
        "peak_bytes": max(figures["peak_bytes"] for figures in found),
    }


def _receive(pipe: Any) -> dict[str, Any]:
    try:
        found = pipe.recv()
    except EOFError:
        raise RuntimeError("a process ended without figures; memory may be short") from None
    if isinstance(found, str):
        raise RuntimeError(found)
    return found
