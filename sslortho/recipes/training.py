"""What every training loop is given, whatever is trained."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from sslortho.recipes.options import TrainingOptions
from sslortho.runs.config_file import fixed_options
from sslortho.data import TrainLoader
from sslortho.models import convert_sync_batch_norm
from sslortho.optim.schedules import multi_step, warmup_cosine
from sslortho.methods import Task
from sslortho.train import CheckpointFolder, FitOptions, FitResult, Reporter, fit
from sslortho.train.fit import Evaluate, Schedule
from sslortho.train.sharding import check_sharding


def build_fit_options(config: TrainingOptions) -> FitOptions:
    """How long, how often."""
    return FitOptions(
        epochs=config.epochs,
        accumulation_steps=config.accumulation_steps,
        seed=config.seed,
        log_every=config.log_every,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        shard=config.shard,
        max_bad_steps=config.max_bad_steps,
        log_gradients=config.log_gradients,
        log_layers=config.log_layers,
    )


def place_model(task: nn.Module, config: TrainingOptions, accelerator: Accelerator) -> None:
    """The device, the memory format, and batch norm over all ranks.

    Raises ValueError where the task cannot be sharded as the configuration asks.
    """
    if config.shard:
        check_sharding(accelerator)
    if config.sync_batch_norm and accelerator.num_processes > 1:
        convert_sync_batch_norm(task, accelerator.device)
    task.to(accelerator.device)
    if config.channels_last:
        task.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


@dataclass(frozen=True)
class Training:
    """What a training run is made of."""

    config: TrainingOptions
    accelerator: Accelerator
    task: Task
    optimizer: Optimizer
    loader: TrainLoader
    schedule: Schedule

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return len(self.loader) // self.config.accumulation_steps * self.config.epochs

    def fit(self, folder: Path, evaluate: Evaluate | None) -> FitResult:
        """Train, from the newest checkpoint in the run folder if there is one; see `train.fit`."""
        reporter = Reporter(folder, self.accelerator, self.total_steps)
        try:
            return fit(
                self.task,
                self.optimizer,
                self.loader,
                accelerator=self.accelerator,
                schedule=self.schedule,
                options=build_fit_options(self.config),
                reporter=reporter,
                checkpoints=CheckpointFolder(
                    folder / "checkpoints", self.config.keep_last, fixed_options(self.config)
                ),
                config=asdict(self.config),
                evaluate=evaluate,
            )
        finally:
            reporter.close()


def cosine_schedule(config: TrainingOptions, batches: int, final: float) -> Schedule:
    """Linear warm-up, then a cosine down to `final`, over epochs of so many batches."""
    steps_per_epoch = batches // config.accumulation_steps
    total = config.epochs * steps_per_epoch
    warmup = round(config.warmup_epochs * steps_per_epoch)
    return lambda step: warmup_cosine(step, total, warmup, final)


def multi_step_schedule(
    config: TrainingOptions, batches: int, milestones: Sequence[float], gamma: float
) -> Schedule:
    """Linear warm-up, then 1, multiplied by `gamma` at each milestone; milestones in epochs."""
    steps_per_epoch = batches // config.accumulation_steps
    warmup = round(config.warmup_epochs * steps_per_epoch)
    steps = [round(epochs * steps_per_epoch) for epochs in milestones]
    return lambda step: step / warmup if step < warmup else multi_step(step, steps, gamma)
