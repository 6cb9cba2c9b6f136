"""How far training is, and what it has seen since it last told."""

import time
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Progress:
    """Where training stands; part of every checkpoint."""

    step: int = 0
    """Optimizer steps taken (skipped ones count)."""
    epoch: int = 0
    step_in_epoch: int = 0
    bad_steps: int = 0
    """Steps in a row whose gradients were not finite."""
    loss: float = float("nan")
    """Of the last record."""

    def state(self) -> dict[str, float]:
        """Plain values: `Progress(**state)` is the inverse."""
        return dict(vars(self))


@dataclass
class Clock:
    """Images a second while stepping; what happens between `stop` and `start` does not count."""

    images: int = 0
    seconds: float = 0.0
    _start: float = field(default_factory=time.perf_counter)

    def start(self) -> None:
        """Begin a stretch of steps."""
        self._start = time.perf_counter()

    def stop(self, images: int) -> float:
        """End a stretch, begin the next; the rate of the one that ended."""
        seconds = time.perf_counter() - self._start
        self.images += images
        self.seconds += seconds
        self.start()
        return images / seconds

    def rate(self) -> float:
        """Over all stretches; nan if there was none."""
        return self.images / self.seconds if self.seconds else float("nan")


@dataclass
class Window:
    """Sums over the steps since the last record; tensors, so that adding does not synchronise."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    images: int = 0
    steps: int = 0

    def add(self, metrics: dict[str, Tensor], images: int) -> None:
        """One step's metrics, and the images it saw over all ranks."""
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.images += images
        self.steps += 1

    def state(self) -> dict[str, Any]:
        """For a checkpoint: `Window(**state)` is the inverse."""
        return dict(vars(self))

    def means(self) -> dict[str, Tensor]:
        """The metrics' means over the steps."""
        return {name: value / self.steps for name, value in self.sums.items()}
