"""Parts that every training has: its inputs compared, its run folder prepared, the loop run in it."""

import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.optim import Optimizer

from sslortho.data import TrainLoader
from sslortho.methods.task import Task
from sslortho.recipes.changed_inputs import accept_changes
from sslortho.recipes.fitted import settled
from sslortho.recipes.options import TrainingOptions
from sslortho.recipes.plan import say_compiling
from sslortho.runs.folder import RunFolder
from sslortho.runs.inputs import Inputs, write_tables
from sslortho.runs.start_line import Plan, describe_pace, say
from sslortho.runs.status import RunStoppedError, status_of
from sslortho.train.batch_norm import check_batch_norm
from sslortho.train.checkpoint import CheckpointFolder
from sslortho.train.options import TrainResult
from sslortho.train.records import Reporter
from sslortho.train.step import Schedule
from sslortho.train.trainer import Evaluate, Trainer


def check_ranks(inputs: Inputs, accelerator: Accelerator) -> None:
    """Compare the inputs and the precision of all ranks. Every rank must call.

    Raises ValueError, on every rank, if they differ: shares of different orders would overlap, a backbone
    that each rank drew for itself is another before the first step, and only one of them could resume. The
    precision is fitted to each rank's processor.
    """
    if accelerator.num_processes == 1:
        return
    ours = {name: entry["digest"] for name, entry in inputs.state().items()}
    everyones = gather_object([(accelerator.mixed_precision, ours)])
    precisions = [precision for precision, _ in everyones]
    if len(set(precisions)) > 1:
        raise ValueError(
            f"the ranks' processors chose different precisions, {', '.join(precisions)}; give "
            "--mixed_precision no or bf16"
        )
    first, *others = (inputs for _, inputs in everyones)
    for rank, theirs in enumerate(others, 1):
        different = [n for n in {**first, **theirs} if first.get(n) != theirs.get(n)]
        if different:
            raise ValueError(
                f"ranks 0 and {rank} do not have the same inputs ({', '.join(different)}); give every rank the "
                f"same images in the same order, and the same objects{inputs.hint}"
            )


def compile_task(task: nn.Module, options: TrainingOptions) -> None:
    """Compile a task, in place, if `compile` or `cuda_graphs` asks for it; the first step does the work."""
    if options.cuda_graphs:
        task.compile(mode="reduce-overhead")
    elif options.compile:
        task.compile()


@dataclass(frozen=True)
class Training:
    """A task, and everything that trains it."""

    options: TrainingOptions
    accelerator: Accelerator
    task: Task
    optimizer: Optimizer
    loader: TrainLoader
    schedule: Schedule
    inputs: Inputs
    chosen: Mapping[str, Any] = field(default_factory=dict)
    """Values that were chosen for options that were left out, and why; see `fitted.to_plain`."""
    plan: Plan = field(default_factory=lambda: Plan({}))
    """All of this in words."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return len(self.loader) // self.options.accumulation_steps

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.steps_per_epoch * self.options.epochs

    @contextmanager
    def hold(self, folder: RunFolder) -> Iterator["HeldTraining"]:
        """Prepare the run folder, and keep its status while the block runs. Every rank must call.

        Raises ValueError, with nothing written, if the newest checkpoint is of other images or weights, if
        those of the ranks differ, or if batch norm would be given single samples.
        """
        check_ranks(self.inputs, self.accelerator)
        sizes = settled(self.options.batch_size), self.options.accumulation_steps
        check_batch_norm(self.task, *sizes, self.accelerator.num_processes)
        held = HeldTraining(self, folder)
        main = self.accelerator.is_main_process
        tells = main and self.options.announce
        if tells:
            say_compiling(self.loader)
        views = next(iter(self.loader)).views if main else None
        folder.prepare(self.accelerator, self.options, views)
        with status_of(folder.path, main):
            for line in self.plan.lines() if tells else ():
                say(line)
            if main and held.writes_tables:
                write_tables(folder.images, self.inputs, held.kept_tables)
            yield held


class HeldTraining:
    """A training at work in its run folder.

    Raises ValueError as `Training.hold`.
    """

    def __init__(self, training: Training, folder: RunFolder) -> None:
        options = training.options
        self.training = training
        self.folder = folder
        self.checkpoints = CheckpointFolder(folder.checkpoints, options.keep_last, options.fixed())
        state = self.checkpoints.peek()
        self.writes_tables = state is None or not folder.images.exists()
        self.kept_tables: list[str] = []
        """Digests of the checkpoint's images: a run that is killed before the next one compares these."""
        accepted = []
        if state is not None:
            steps = training.steps_per_epoch
            accepted = accept_changes(options, training.inputs, folder, state, steps)
            if len(accepted) > len(state.get("accepted_changes", [])):
                self.writes_tables = True
                stored = state.get("inputs", {}).values()
                self.kept_tables = [entry["digest"] for entry in stored]
                training.accelerator.print(
                    f"accepted: {accepted[-1]['change']}; {accepted[-1]['effect']}", file=sys.stderr
                )
        self.about: dict[str, Any] = {"inputs": training.inputs.state()}
        """Identity of the inputs, values chosen for options that were left out, the plan, and changes
        that were accepted, for checkpoints and summary.json."""
        chosen = (state or {}).get("chosen", training.chosen)
        if chosen:
            self.about["chosen"] = dict(chosen)
        if training.plan.rows:
            self.about["plan"] = dict(training.plan.rows)
        if accepted:
            self.about["accepted_changes"] = accepted

    def run(self, evaluate: Evaluate | None) -> TrainResult:
        """Train, from the newest checkpoint if there is one; see `Trainer.run`."""
        training = self.training
        options, accelerator = training.options, training.accelerator
        reporter = Reporter(self.folder.path, accelerator, training.total_steps, options.values())
        try:
            return Trainer(
                training.task,
                training.optimizer,
                training.loader,
                accelerator=accelerator,
                schedule=training.schedule,
                options=options,
                reporter=reporter,
                checkpoints=self.checkpoints,
                evaluate=evaluate,
                about=self.about,
                tell_pace=_say_pace if options.announce and accelerator.is_main_process else None,
            ).run()
        finally:
            reporter.close()

    def complete(self, evaluate: Evaluate | None) -> TrainResult:
        """Train to the end. Raises RunStoppedError, and ends the trackers, if a signal stops it."""
        result, accelerator = self.run(evaluate), self.training.accelerator
        if result.stopped_by is None:
            return result
        stop = RunStoppedError(result.stopped_by, result.step)
        accelerator.print(stop)
        with _uninterrupted():  # a second Ctrl-C has nothing left to hasten
            accelerator.end_training()
        raise stop


def _say_pace(seconds_a_step: float, steps: int) -> None:
    if steps:
        say(describe_pace(seconds_a_step, steps))


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
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)  # None: not of Python
