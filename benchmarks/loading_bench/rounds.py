"""Rounds in which pipelines take turns."""

import time
from collections.abc import Collection
from dataclasses import dataclass, field

import torch

from turns import FAR_SLOWER, TOO_SLOW, Progress

from .workload import Pipeline

try:
    import psutil
except ImportError:
    psutil = None


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


def describe_rate(rates: list[float]) -> str:
    """The middle rate in words."""
    return f"{sorted(rates)[len(rates) // 2]:.1f} pairs/s"


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
                progress.tell_finished(name, describe_rate(timing.rates), epochs)
        if 0 < round_ < epochs:
            progress.write(f"round {round_} of {epochs}: done")
        if round_ == 1 and epochs > 1:
            slow = find_slow({name: t.rates[0] for name, t in timings.items()}, bounds)
            for name in pipelines:
                if name in slow:
                    progress.bar.update(epochs - 1)
                    rate = describe_rate(timings[name].rates)
                    progress.tell_finished(name, rate, 1, FAR_SLOWER)
    progress.bar.close()
    return timings
