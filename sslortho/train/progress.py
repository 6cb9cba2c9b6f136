"""Progress of a training, and sums since its last record."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Progress:
    """Position of a training; part of every checkpoint."""

    step: int = 0
    """Optimizer steps taken (skipped ones count)."""
    epoch: int = 0
    step_in_epoch: int = 0
    bad_steps: int = 0
    """Number of steps in a row whose gradients were not finite."""
    loss: float = float("nan")
    """Loss of the last record."""

    def state(self) -> dict[str, float]:
        """Plain values: `Progress(**state)` is the inverse."""
        return dict(vars(self))

    def rescale(self, before: int, now: int) -> None:
        """Keep the place in the epoch, rounded down, where an epoch has `now` steps instead of `before`."""
        self.step_in_epoch = self.step_in_epoch * now // before


@dataclass
class Clock:
    """Images a second while stepping; time between `stop` and `start` does not count."""

    images: int = 0
    seconds: float = 0.0
    _start: float = field(default_factory=time.perf_counter)
    _images: int = 0

    def start(self) -> None:
        """Begin a stretch of steps."""
        self._start, self._images = time.perf_counter(), 0

    def add(self, images: int) -> None:
        """Count images of this stretch, over all ranks."""
        self._images += images

    def stop(self) -> float:
        """End a stretch and begin the next; the rate of the one that ended."""
        seconds, images = time.perf_counter() - self._start, self._images
        self.images += images
        self.seconds += seconds
        self.start()
        return images / seconds

    def rate(self) -> float:
        """Rate over all stretches; nan if there was none."""
        return self.images / self.seconds if self.seconds else float("nan")


@dataclass
class Pace:
    """Time that a step takes, from the first few of a session; the very first, which compiles, does not
    count."""

    steps: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> float | None:
        """Add a step; the mean seconds of a step once there are PACE_STEPS of them, else None."""
        self.steps += 1
        if self.steps > 1:
            self.seconds += seconds
        return self.seconds / PACE_STEPS if self.steps == 1 + PACE_STEPS else None


PACE_STEPS = 5
"""Steps that are timed for the estimate of a training's time."""


@dataclass
class Window:
    """Sums over the steps since the last record; tensors, so that adding does not synchronise."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0

    def add(self, metrics: Mapping[str, Tensor], skipped: bool = False) -> None:
        """Add the metrics of one step.

        skipped: the step was not taken, and only the names of its metrics count.
        """
        for name, value in metrics.items():
            if skipped:
                self.sums.setdefault(name, torch.zeros_like(value))
            else:
                self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.steps += not skipped

    def state(self) -> dict[str, Any]:
        """Values for a checkpoint; `restored` is the inverse."""
        return dict(vars(self))

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> "Window":
        """Window of a checkpoint; empty where an older one holds none."""
        return cls(dict(state.get("sums", {})), state.get("steps", 0))  # versions of 0.1 add images

    def means(self) -> dict[str, Tensor]:
        """Means of the metrics over the steps that were not skipped: nan if all were.

        Empty if no step had metrics.
        """
        return {name: value / self.steps for name, value in self.sums.items()}
