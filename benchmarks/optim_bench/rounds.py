"""Rounds in which the methods take turns."""

import functools
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sslortho.optim.polar_factor.captured import WARM_UP
from turns import FAR_SLOWER, TOO_SLOW, Progress

from .measures import measure_peak_memory, measure_seconds
from .methods import BASELINE


@dataclass
class Timing:
    """Figures of a method.

    first: seconds of the first round, on a GPU of its last call. seconds, core_seconds: one of each a later
    round, by the clock and of all threads together. peak_mib: memory of the first round, see
    `measure_peak_memory`.
    """

    first: float = 0.0
    seconds: list[float] = field(default_factory=list)
    core_seconds: list[float] = field(default_factory=list)
    peak_mib: float | None = None


def find_slow(seconds: Mapping[str, float]) -> set[str]:
    """Methods that take more than TOO_SLOW times as long as the fastest; never the one compared with."""
    fastest = min(seconds.values())
    return {name for name, took in seconds.items() if took > TOO_SLOW * fastest} - {BASELINE}


def run_rounds(
    methods: Mapping[str, Callable[[list[nn.Parameter]], None]],
    parameters: list[nn.Parameter],
    gradients: list[Tensor],
    rounds: int,
    device: torch.device,
) -> tuple[dict[str, dict[str, Any]], dict[str, list[Tensor]]]:
    """Figures of every method (seconds, ratio to the SVDs, MiB), and its orthonormal gradients.

    One round more than `rounds` is run: the first measures memory and is not timed. A method that is too slow
    there, see `find_slow`, has the seconds of that round alone, and "stopped" true. On a GPU
    the fourth call of that round decides, since those before it compile and capture.
    """
    timings = {name: Timing() for name in methods}
    results: dict[str, list[Tensor]] = {}
    progress = Progress(len(methods), rounds)
    slow: set[str] = set()
    for round_ in range(rounds + 1):
        for name in [name for name in methods if name not in slow]:
            progress.start(name)
            _run_once(timings[name], methods[name], parameters, gradients, device, first=not round_)
            progress.bar.update()
            if not round_:
                progress.tell_ready(name, timings[name].first)
                results[name] = [p.grad for p in parameters if p.grad is not None]
            elif round_ == rounds:
                progress.tell_finished(name, _describe_seconds(timings[name].seconds), rounds)
        if not round_:
            slow = find_slow({name: timing.first for name, timing in timings.items()})
            for name in [name for name in methods if name in slow]:
                timings[name].seconds = [timings[name].first]
                progress.bar.update(rounds)
                seconds = _describe_seconds(timings[name].seconds)
                progress.tell_finished(name, seconds, 1, FAR_SLOWER)
    progress.bar.close()
    return _describe(timings, slow), results


def _describe_seconds(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.3f} s"


def _run_once(
    timing: Timing,
    method: Callable[[list[nn.Parameter]], None],
    parameters: Iterable[nn.Parameter],
    gradients: Iterable[Tensor],
    device: torch.device,
    *,
    first: bool,
) -> None:
    """Let a method replace copies of the gradients; add its figures to `timing`."""
    parameters = list(parameters)
    for p, gradient in zip(parameters, gradients, strict=True):
        p.grad = gradient.clone()
    step = functools.partial(method, parameters)
    if first:
        start = time.perf_counter()
        timing.peak_mib = measure_peak_memory(step, device)
        timing.first = time.perf_counter() - start
        if device.type == "cuda":
            # first calls compile, and the third one captures a graph: the last of these is the time
            for _ in range(WARM_UP + 1):
                for p, gradient in zip(parameters, gradients, strict=True):
                    p.grad = gradient.clone()
                timing.first = measure_seconds(step, device)
        return
    before = time.process_time()
    timing.seconds.append(measure_seconds(step, device))
    timing.core_seconds.append(time.process_time() - before)


def _describe(timings: Mapping[str, Timing], slow: Collection[str]) -> dict[str, dict[str, Any]]:
    """Medians, and the ratio to the SVDs of the same rounds as far as there are some."""
    baseline = timings[BASELINE].seconds
    return {
        name: {
            "seconds": statistics.median(timing.seconds),
            "fastest": min(timing.seconds),
            "ratio": statistics.median(
                a / b for a, b in zip(baseline, timing.seconds, strict=False)
            ),
            "core_seconds": statistics.median(timing.core_seconds) if timing.core_seconds else None,
            "peak_mib": timing.peak_mib,
            "stopped": name in slow,
        }
        for name, timing in timings.items()
    }
