"""Where the time of training steps goes: loading, forward and backward, the optimizer."""

import time
from collections.abc import Iterator
from typing import Any, Literal, TypeVar

import torch

Item = TypeVar("Item")

Part = Literal["loader", "step", "optimizer"]
"""loader: batches that are waited for or rendered. step: forward, backward and the norm of the gradients.
optimizer: the update."""

PARTS: tuple[Part, ...] = ("loader", "step", "optimizer")


class StepTimes:
    """Seconds of each part of the steps.

    On a GPU they are the device's, between marks in its queue; nothing waits for it until `settle`. What
    it does not do for want of a batch counts as loader; a batch that is decoded while it computes does not.

    Args:
        device: that trains.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.part: Part | None = None
        self.seconds: dict[Part, float] = dict.fromkeys(PARTS, 0.0)
        self._marks: list[tuple[Any, Part | None]] = []

    def switch(self, part: Part | None) -> None:
        """Let the time from now on be of this part; None: of no part."""
        self.part = part
        self._marks.append((self._mark(), part))

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def loading(self, items: Iterator[Item]) -> Iterator[Item]:
        """The items; the time that each takes to come is the loader's."""
        while True:
            before = self.part
            self.switch("loader")
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.switch(before)
            yield item
            del item  # views are large

    def settle(self) -> None:
        """Add up what was marked. On a GPU it waits for the last mark."""
        if self._marks and self.device.type == "cuda":
            self._marks[-1][0].synchronize()
        for (mark, part), (following, _) in zip(self._marks, self._marks[1:], strict=False):
            if part is not None:
                self.seconds[part] += _difference(mark, following)
        self._marks = self._marks[-1:]

    def shares(self) -> dict[str, float]:
        """Share of each part in the sum of all, to three digits; empty if there was no step."""
        self.settle()
        whole = sum(self.seconds.values())
        return {part: round(self.seconds[part] / whole, 3) for part in PARTS} if whole else {}


def _difference(mark: Any, following: Any) -> float:
    """Seconds between two marks."""
    if isinstance(mark, float):
        return following - mark
    return mark.elapsed_time(following) / 1000  # torch's are milliseconds


def start_peak(device: torch.device) -> None:
    """Begin to watch the memory that a GPU has in use."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def read_peak(device: torch.device) -> float | None:
    """Most memory in GiB that tensors had in use on a GPU since `start_peak`; None on a CPU."""
    if device.type != "cuda":
        return None
    return round(torch.cuda.max_memory_allocated(device) / 2**30, 3)
