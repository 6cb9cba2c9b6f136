"""Rounds in which pipelines take turns, and the lines on the terminal that tell how far they are."""

import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from .workload import Pipeline

try:
    import psutil
except ImportError:
    psutil = None

TOO_SLOW = 20
"""Times that a pipeline is slower than the fastest from which one round is enough."""


@dataclass
class Timing:
    """Figures of a pipeline: one of `rates` and of `core_ms` a timed round.

    pairs: made in a round. warm_up: seconds of the round that is not timed. rates: pairs a second.
    core_ms: milliseconds of one core a pair, all processes and threads together; empty without psutil.
    """

    pairs: int = 0
    warm_up: float = 0.0
    rates: list[float] = field(default_factory=list)
    core_ms: list[float] = field(default_factory=list)


def read_core_seconds() -> float | None:
    """Processor time of this process and of those that it started; None without psutil."""
    if psutil is None:
        return None
    process, total = psutil.Process(), 0.0
    for one in [process, *process.children(recursive=True)]:
        try:
            took = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += took.user + took.system + took.children_user + took.children_system
    return total


def run_once(pipeline: Pipeline, timing: Timing, workers: int) -> float:
    """One round; adds its figures to `timing`, and returns its seconds."""
    torch.set_num_threads(workers)  # FFCV and others change it
    before, start = read_core_seconds(), time.perf_counter()
    timing.pairs = pipeline.run()
    seconds = time.perf_counter() - start
    if settle := getattr(pipeline, "settle", None):
        settle()
    after = read_core_seconds()
    timing.rates.append(timing.pairs / seconds)
    if before is not None and after is not None:
        timing.core_ms.append(1000 * (after - before) / timing.pairs)
    return seconds


def find_slow(rates: dict[str, float], bounds: Collection[str]) -> set[str]:
    """Pipelines whose rate is less than 1 / TOO_SLOW of the fastest that is not one of `bounds`."""
    loaders = [rate for name, rate in rates.items() if name not in bounds]
    fastest = max(loaders or rates.values())
    return {name for name, rate in rates.items() if rate < fastest / TOO_SLOW}


class Progress:
    """A bar, and a line for each pipeline as it is ready and as it is finished, on stderr."""

    def __init__(self, pipelines: int, epochs: int) -> None:
        self.pipelines, self.epochs = pipelines, epochs
        self.ready = self.finished = 0
        total = pipelines * (epochs + 1)
        self.bar = tqdm(total=total, unit="run", leave=False, disable=None)

    def start(self, name: str) -> None:
        """Show whose turn it is."""
        self.bar.set_postfix_str(name)

    def tell_ready(self, name: str, seconds: float) -> None:
        """Tell that a pipeline's untimed round is over."""
        self.ready += 1
        self._write(f"{name}: ready, {seconds:.1f} s ({self.ready} of {self.pipelines})")

    def tell_finished(self, name: str, rates: list[float], why: str = "") -> None:
        """Tell a pipeline's rate; `why` it ends early, if it does."""
        self.finished += 1
        self.bar.update(self.epochs - len(rates))
        usual = sorted(rates)[len(rates) // 2]
        rounds = "1 round" if len(rates) == 1 else f"{len(rates)} rounds"
        left = f"{self.finished} of {self.pipelines} finished"
        self._write(f"{name}: {usual:.1f} pairs/s, {rounds}{why} ({left})")

    def tell_round(self, round_: int) -> None:
        """Tell that a timed round is over."""
        self._write(f"round {round_} of {self.epochs}: done")

    def _write(self, line: str) -> None:
        tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()


def run_rounds(
    pipelines: dict[str, Pipeline], epochs: int, workers: int, bounds: Collection[str] = ()
) -> dict[str, Timing]:
    """Figures of every pipeline over `epochs` rounds.

    The pipelines take turns, so that other load on the machine affects all alike. A round before the
    timed ones starts processes, compiles, and fills the page cache. A pipeline that is more than
    TOO_SLOW times slower than the fastest, bounds left aside, is timed in one round alone.
    """
    timings = {name: Timing() for name in pipelines}
    progress = Progress(len(pipelines), epochs)
    slow: set[str] = set()
    for round_ in range(epochs + 1):
        for name in [name for name in pipelines if name not in slow]:
            progress.start(name)
            timing = timings[name]
            seconds = run_once(pipelines[name], timing, workers)
            progress.bar.update()
            if round_ == 0:
                timings[name] = Timing(timing.pairs, warm_up=seconds)
                progress.tell_ready(name, seconds)
            elif round_ == epochs:
                progress.tell_finished(name, timing.rates)
        if 0 < round_ < epochs:
            progress.tell_round(round_)
        if round_ == 1 and epochs > 1:
            slow = find_slow({name: t.rates[0] for name, t in timings.items()}, bounds)
            for name in pipelines:
                if name in slow:
                    why = f": the fastest is more than {TOO_SLOW} times as fast"
                    progress.tell_finished(name, timings[name].rates, why)
    progress.bar.close()
    return timings
