"""One step of the optimizer: its rates, the gradients, their check, the update."""

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from sslortho.methods import Task
from sslortho.train.backward import accumulate_gradients
from sslortho.train.batches_ahead import BatchesAhead
from sslortho.train.instruments import Instruments
from sslortho.train.options import LoopOptions
from sslortho.train.progress import Progress
from sslortho.train.sharding import total_norm
from sslortho.train.skipping import Arriving, KeptBuffers, count_bad_step
from sslortho.train.step_times import StepTimes

Schedule = Callable[[int], float]
"""Step (from 0) to the multiplier of every group's learning rate."""


class OptimizerStep:
    """The step that a training repeats.

    On a GPU the host waits once in a step, for the norm of the gradients, with the next batch in the queue.
    Under fp16 it waits again: torch's scaler reads whether gradients overflowed.

    Args:
        task: as the accelerator prepared it.
        trained: the same task without the accelerator's wrapper.
        optimizer: as the accelerator prepared it; `schedule` multiplies each group's "lr".
        accelerator: device, ranks and precision.
        schedule: step to multiplier of the learning rates.
        options: `seed`, `accumulation_steps` and `max_bad_steps` are read.
        instruments: measure the steps that a record follows.
        times: are told when the optimizer begins.
    """

    def __init__(
        self,
        task: nn.Module,
        trained: Task,
        optimizer: Optimizer,
        accelerator: Accelerator,
        schedule: Schedule,
        options: LoopOptions,
        instruments: Instruments,
        times: StepTimes,
    ) -> None:
        self.task = task
        self.trained = trained
        self.optimizer = optimizer
        self.accelerator = accelerator
        self.schedule = schedule
        self.options = options
        self.instruments = instruments
        self.times = times
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.buffers = KeptBuffers(trained)

    def take(
        self, batches: BatchesAhead, progress: Progress, place: int, total: int, recorded: bool
    ) -> tuple[dict[str, Tensor], int, bool]:
        """Take the step at a place of the schedule.

        Args:
            batches: `accumulation_steps` of them are taken.
            progress: of the training; a step that is skipped is counted there.
            place: steps from the beginning of the schedule.
            total: steps of the whole schedule.
            recorded: whether a record follows, for which the step is measured.

        Returns the mean metrics, the number of this rank's images, and whether the step was skipped. The
        metrics are empty if the gradients of fp16 overflowed without fault. Raises NonFiniteError as
        `skipping.count_bad_step`.
        """
        self._seed(progress.step)
        multiplier = self.schedule(place)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * multiplier
        self.optimizer.zero_grad(set_to_none=True)
        self.trained.before_step(place, progress.epoch, total)
        self.buffers.keep()
        metrics, images = self._find_gradients(batches, recorded)
        norm = Arriving(metrics["grad_norm"])
        batches.prepare()
        finite = math.isfinite(norm.read())
        if not finite:  # what broke the gradients has broken batch norm's running statistics too
            self.buffers.restore()
        if finite and recorded:
            self.instruments.measure()
        self.times.switch("optimizer")
        overflow = self._update(finite, metrics, progress)
        return ({} if overflow else metrics), images, not finite

    def _seed(self, step: int) -> None:
        """Let what the network draws be a function of seed, step and rank."""
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        torch.manual_seed((self.options.seed << 32) + step * ranks + rank)

    def _find_gradients(
        self, batches: BatchesAhead, recorded: bool
    ) -> tuple[dict[str, Tensor], int]:
        """Mean metrics, with the norm of the gradients, and the number of this rank's images."""
        count = self.options.accumulation_steps
        watching = self.instruments.watch() if recorded else nullcontext()
        metrics, images = accumulate_gradients(
            self.task, batches.take(count), count, self.accelerator, watching
        )
        if self.accelerator.scaler:
            self.accelerator.unscale_gradients(self.optimizer)
        self.trained.after_backward()
        grads = [p.grad for p in self.task.parameters() if p.grad is not None]
        metrics["grad_norm"] = total_norm(grads)
        return metrics, images

    def _update(self, finite: bool, metrics: dict[str, Tensor], progress: Progress) -> bool:
        """Step, unless the gradients are not finite. After DDP's mean all ranks see the same.

        Returns whether they overflowed without fault: see `count_bad_step`, also for what raises.
        """
        if finite or self.accelerator.scaler:  # the scaler skips by itself, and lowers its scale
            self.optimizer.step()
        if not finite:
            most = self.options.max_bad_steps
            return count_bad_step(progress, self.accelerator, self.trained, metrics, most)
        self.trained.after_step()
        progress.bad_steps = 0
        return False
