"""The only training loop."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from torch.optim import Optimizer

from sslortho.data import TrainLoader
from sslortho.methods import Task
from sslortho.train.batches_ahead import BatchesAhead
from sslortho.train.checkpoint import CheckpointFolder
from sslortho.train.device_memory import DeviceMemoryError, describe_shortage
from sslortho.train.instruments import Instruments
from sslortho.train.launch import use_data_parallel_options
from sslortho.train.options import LoopOptions, TrainResult
from sslortho.train.progress import Clock, Pace, Progress, Window
from sslortho.train.ranks import RankLostError, RankWatch
from sslortho.train.records import Reporter
from sslortho.train.saving import CheckpointWriter, HostCopies
from sslortho.train.sharding import gather_into, shard_task
from sslortho.train.signals import StopRequest
from sslortho.train.state import (
    check_agreement,
    checkpoint_state,
    describe_change,
    restore,
    steps_per_epoch,
)
from sslortho.train.step import OptimizerStep, Schedule
from sslortho.train.step_times import StepTimes, read_peak, start_peak

Evaluate = Callable[[Any], dict[str, float]]
"""Task to figures; called on every rank. Keeps the task's training or evaluation mode."""


class Trainer:
    """The training loop: from the newest checkpoint, if there is one, to the end.

    Args:
        task: on the accelerator's device or not; prepared here.
        optimizer: over the task's parameters; `schedule` multiplies each group's "lr".
        loader: finished batches on the device.
        accelerator: device, ranks and precision.
        schedule: step to multiplier of the learning rates.
        options: how long, how often. All of them, also those of a subclass, are stored in every
            checkpoint.
        reporter, checkpoints: where records and checkpoints are written.
        evaluate: figures of the task, every `options.evaluate_every` epochs and at the end.
        about: entries of every checkpoint beside the state, such as the identity of the images.
        tell_pace: called after a few steps with the seconds of a step and the number of steps left.

    Raises ValueError if an epoch has less than one step, or as `sharding.shard_task`.
    """

    def __init__(
        self,
        task: Task,
        optimizer: Optimizer,
        loader: TrainLoader,
        *,
        accelerator: Accelerator,
        schedule: Schedule,
        options: LoopOptions,
        reporter: Reporter,
        checkpoints: CheckpointFolder,
        evaluate: Evaluate | None = None,
        about: Mapping[str, Any] | None = None,
        tell_pace: Callable[[float, int], None] | None = None,
    ) -> None:
        self.plain_task = task
        self.trained = shard_task(task, optimizer, accelerator) if options.shard else task
        use_data_parallel_options(accelerator, task)
        self.task = accelerator.prepare_model(
            self.trained,
            device_placement=not options.shard,  # Accelerate imports torch.distributed.tensor to choose it
            evaluation_mode=options.shard,
        )
        self.optimizer = accelerator.prepare_optimizer(optimizer)
        self.loader = loader
        self.accelerator = accelerator
        self.options = options
        self.reporter = reporter
        self.checkpoints = checkpoints
        self.evaluate = evaluate
        self.about = dict(about or {})
        self.tell_pace = tell_pace
        self.pace = Pace()
        self.steps_per_epoch = len(loader) // options.accumulation_steps
        if self.steps_per_epoch < 1:
            raise ValueError(
                f"accumulation_steps={options.accumulation_steps} batches do not fit into an epoch "
                f"of {len(loader)}; lower it, or batch_size"
            )
        self.total_steps = self.steps_per_epoch * options.epochs
        self.progress = Progress()
        self.clock = Clock()
        self.times = StepTimes(accelerator.device)
        self.window = Window()
        self.instruments = Instruments(self.trained, self.optimizer, options)
        self.optimizer_step = OptimizerStep(
            self.task,
            self.trained,
            self.optimizer,
            accelerator,
            schedule,
            options,
            instruments=self.instruments,
            times=self.times,
        )
        self.rank_watch = RankWatch(accelerator)
        self.ahead = accelerator.device.type != "cpu"
        self.copies = HostCopies()
        self.writer = CheckpointWriter(checkpoints)

    @property
    def place(self) -> int:
        """Steps from the beginning to the current place of the schedule, of `total_steps`.

        It is the number of steps taken, unless the data, and so the length of an epoch, changed on the
        way.
        """
        return self.progress.epoch * self.steps_per_epoch + self.progress.step_in_epoch

    def run(self) -> TrainResult:
        """Train to the end, or to a signal that asks for a stop.

        Raises:
            NonFiniteError: `options.max_bad_steps` steps in a row with non-finite gradients. Such
                steps are skipped; under fp16 the gradient scaler skips them and lowers its scale.
            RankLostError: another rank has ended.
            OSError: nothing can be written any more; checkpoints that were saved stay.
            ValueError: the ranks found different checkpoints.
            DeviceMemoryError: the GPU's memory is too small; the message says what to lower.
        """
        with StopRequest(self.accelerator) as stop:
            try:
                with self.rank_watch.watch():
                    self._resume()
                    result = self._train(stop)
                    self.writer.wait()
                    self.accelerator.wait_for_everyone()  # what is saved is saved for all
                    return result
            except torch.OutOfMemoryError as error:
                self._tell_end(error)
                advice = describe_shortage(self.options.values(), trains=True)
                if self.checkpoints.list():
                    advice += "; with another out, since a run that has begun keeps these options"
                raise DeviceMemoryError(advice) from error
            except BaseException as error:
                self._tell_end(error)
                raise
            finally:
                self.writer.close()

    def _tell_end(self, error: BaseException) -> None:
        """Say after which step training ended; on every rank if another rank's end was the cause."""
        if isinstance(error, RankLostError):  # now: launchers end what is left soon
            print(f"{self.rank_watch.ours}: {error}", file=sys.stderr, flush=True)
        self._await_writer()
        step, last = self.progress.step, self.checkpoints.describe_last()
        self.reporter.say(f"training ended early, after step {step}; {last}")

    def _await_writer(self) -> None:
        """Wait for the checkpoint under way. If it could not be written, say so and go on."""
        try:
            self.writer.wait()
        except Exception as error:
            self.reporter.say(str(error))

    def _resume(self) -> None:
        state = self.checkpoints.load_latest()
        check_agreement(state, self.accelerator)
        if state is not None:
            restored = restore(state, self.trained, self.optimizer, self.accelerator)
            self.progress, self.window = restored
            before = steps_per_epoch(state) or self.steps_per_epoch
            if before != self.steps_per_epoch:
                self.progress.rescale(before, self.steps_per_epoch)
            change = describe_change(state, self.accelerator)
            self.reporter.say(f"resuming at step {self.progress.step}{change}")
        length = state.get("records_length") if state else None
        self.reporter.resume(self.progress.step, self.place, length)

    def _train(self, stop: StopRequest) -> TrainResult:
        self.task.train()
        start_peak(self.accelerator.device)
        if self.progress.step == 0 and self.options.evaluate_every:
            self._evaluate()
        while self.progress.epoch < self.options.epochs:
            for _ in self._epoch_steps():
                ends = self.progress.step_in_epoch == self.steps_per_epoch
                signal = stop.agreed(self.progress.step, always=ends)
                if signal is not None:
                    self._await_writer()  # there may be room now, though there was none for the last
                    self._save()
                    return self._result(signal)
                self.writer.check()
            self._finish_epoch()
        self.writer.wait()
        # a signal may have come in the last evaluation or save: what follows training would not hear it
        return self._result(stop.agreed(self.progress.step, always=True))

    def _result(self, signal: int | None) -> TrainResult:
        self._update_plain_task()
        rate, shares = self.clock.rate(), self.times.shares()
        peak = read_peak(self.accelerator.device)
        return TrainResult(self.progress.step, signal, self.progress.loss, rate, shares, peak)

    def _epoch_steps(self) -> Iterator[None]:
        """Run the remaining steps of the current epoch, yielding after each."""
        progress, count = self.progress, self.options.accumulation_steps
        self.loader.set_epoch(progress.epoch, progress.step_in_epoch * count)
        left = (self.steps_per_epoch - progress.step_in_epoch) * count
        batches = BatchesAhead(self.times.loading(iter(self.loader)), left, self.ahead)
        self.clock.start()
        while progress.step_in_epoch < self.steps_per_epoch:
            began, recorded = time.perf_counter(), self._record_follows()
            self.times.switch("step")
            self._step(batches, recorded)
            self.times.switch(None)
            progress.step += 1
            progress.step_in_epoch += 1
            if recorded:
                self._log()
            seconds = self.pace.add(time.perf_counter() - began)
            if seconds is not None and self.tell_pace:
                self.tell_pace(seconds, self.total_steps - self.place)
            yield
        if self.window.steps:  # an older checkpoint, made between an epoch's end and its record
            self._log()

    def _step(self, batches: BatchesAhead, recorded: bool) -> None:
        """One optimizer step, measured if a record follows."""
        metrics, images, skipped = self.optimizer_step.take(
            batches, self.progress, self.place, self.total_steps, recorded
        )
        self.window.add(metrics, skipped)
        self.clock.add(images * self.accelerator.num_processes)

    def _record_follows(self) -> bool:
        """Whether a record is written after the next step."""
        last = self.progress.step_in_epoch + 1 == self.steps_per_epoch
        return last or (self.progress.step + 1) % self.options.log_every == 0

    def _log(self) -> None:
        """Write a record of means over the steps since the last one that were not skipped."""
        reduced = self.accelerator.reduce(self.window.means(), reduction="mean")
        assert isinstance(reduced, dict)
        values = {name: float(value) for name, value in reduced.items()}
        self.progress.loss = values.get("loss", self.progress.loss)
        values["images_per_second"] = self.clock.stop()
        self.times.settle()
        groups = self.optimizer.param_groups
        rates = {f"lr/{group.get('name', 'all')}": float(group["lr"]) for group in groups}
        record = {**values, **rates, **self.instruments.take()}
        self.reporter.log(self.progress.step, self.progress.epoch, record)
        shown = {
            "loss": self.progress.loss,
            "img/s": values["images_per_second"],
            "lr": float(groups[0]["lr"]),
        }
        self.reporter.progress(self.place, shown)
        self.window = Window()

    def _finish_epoch(self) -> None:
        """Evaluate and save, where it is time for them.

        An evaluation may outlast what a scheduler leaves between its signal and SIGKILL, so a checkpoint
        comes before it. Training that resumes from that one evaluates.
        """
        progress, options = self.progress, self.options
        epoch = progress.epoch + 1
        last = epoch == options.epochs
        every = options.evaluate_every
        evaluates = bool(self.evaluate and every) and (last or epoch % every == 0)
        saves = last or epoch % options.checkpoint_every == 0
        if evaluates and saves:
            self._save()
        progress.epoch, progress.step_in_epoch = epoch, 0
        if evaluates:
            self._evaluate()
        if last or (saves and not evaluates):  # the last one says that its evaluation is done
            self._save()

    def _update_plain_task(self) -> None:
        """Load the weights of the sharded copy, if there is one, into the task for evaluation and export."""
        if self.options.shard:
            gather_into(self.plain_task, self.trained, self.accelerator.device)

    def _evaluate(self) -> None:
        if not self.evaluate:
            return
        self._update_plain_task()
        try:
            figures = self.evaluate(self.plain_task)
        except torch.OutOfMemoryError as error:
            advice = describe_shortage(self.options.values(), trains=False)
            raise DeviceMemoryError(advice) from error
        if self.options.shard:
            self.plain_task.to("cpu")  # it is not needed where memory is short
        self.reporter.log(self.progress.step, self.progress.epoch, figures)

    def _save(self) -> None:
        """Begin to write a checkpoint, once the one before it is on the disk. Every rank must call."""
        self.writer.wait()
        sums = self.accelerator.reduce(self.window.sums, reduction="mean")
        assert isinstance(sums, dict)
        window = replace(self.window, sums=sums)  # every rank goes on from the mean of all
        state = checkpoint_state(
            self.progress, window, self.trained, self.optimizer, self.accelerator, self.copies
        )
        arrival = self.copies.finish()
        if self.accelerator.is_main_process:
            self.reporter.sync()  # what is saved has its records on the disk too
            about = {
                "config": self.options.values(),
                **self.about,
                "steps_per_epoch": self.steps_per_epoch,
                "records_length": self.reporter.length,
            }
            self.writer.save({**state, **about}, self.progress.step, arrival)
        self.accelerator.wait_for_everyone()
