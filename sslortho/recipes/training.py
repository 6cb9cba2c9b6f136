"""Parts that every training has: process and ranks, placement, schedule, the loop in a run folder."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from torch.optim import Optimizer

from sslortho.data import TrainLoader
from sslortho.methods.task import Task
from sslortho.recipes.options import TrainingOptions
from sslortho.runs.folder import RunFolder
from sslortho.runs.status import RunStoppedError
from sslortho.train.checkpoint import CheckpointFolder
from sslortho.train.options import TrainResult
from sslortho.train.records import Reporter
from sslortho.train.trainer import Evaluate, Schedule, Trainer


@dataclass(frozen=True)
class Training:
    """A task, and everything that trains it."""

    options: TrainingOptions
    accelerator: Accelerator
    task: Task
    optimizer: Optimizer
    loader: TrainLoader
    schedule: Schedule

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return len(self.loader) // self.options.accumulation_steps * self.options.epochs

    def run(self, folder: Path, evaluate: Evaluate | None) -> TrainResult:
        """Train, from the newest checkpoint in the run folder if there is one; see `Trainer.run`."""
        files = RunFolder(folder)
        reporter = Reporter(folder, self.accelerator, self.total_steps)
        checkpoints = CheckpointFolder(
            files.checkpoints, self.options.keep_last, self.options.fixed()
        )
        try:
            return Trainer(
                self.task,
                self.optimizer,
                self.loader,
                accelerator=self.accelerator,
                schedule=self.schedule,
                options=self.options,
                reporter=reporter,
                checkpoints=checkpoints,
                evaluate=evaluate,
            ).run()
        finally:
            reporter.close()

    def complete(self, folder: Path, evaluate: Evaluate | None) -> TrainResult:
        """Train to the end. Raises RunStoppedError, and ends the trackers, if a signal stops it."""
        result = self.run(folder, evaluate)
        if result.stopped_by is None:
            return result
        stop = RunStoppedError(result.stopped_by, result.step)
        self.accelerator.print(stop)
        with _uninterrupted():  # a second Ctrl-C has nothing left to hasten
            self.accelerator.end_training()
        raise stop


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C inside, where signals are ours to handle."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
