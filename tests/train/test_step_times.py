"""Shares of loader, step and optimizer, by clocks that go as far as the test says."""

import torch
from helpers.linear_training import Loader, Regression, train

from sslortho.train import step_times
from sslortho.train.step_times import StepTimes


class Clock:
    """Seconds that pass where something is said to take them."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(step_times.time, "perf_counter", lambda: self.now)

    def after(self, function, seconds):
        """The function, which takes so long now."""

        def call(*arguments, **options):
            result = function(*arguments, **options)
            self.now += seconds
            return result

        return call


class Slow(Loader):
    def __init__(self, clock, seconds, **options):
        super().__init__(**options)
        self.clock, self.seconds = clock, seconds

    def __iter__(self):
        for batch in super().__iter__():
            self.clock.now += self.seconds
            yield batch


def test_a_training_tells_the_share_of_each_part(tmp_path, monkeypatch):
    """12 steps: batches 3 s, forward 5 s, the update 2 s; records and checkpoints do not count."""
    clock = Clock(monkeypatch)
    task = Regression()
    task.forward = clock.after(task.forward, 5.0)

    def prepare(trainer):
        trainer.optimizer.step = clock.after(trainer.optimizer.step, 2.0)
        trainer.reporter.log = clock.after(trainer.reporter.log, 1000.0)
        trainer._save = clock.after(trainer._save, 1000.0)

    _, result = train(tmp_path, loader=Slow(clock, 3.0), task=task, prepare=prepare)
    assert result.time_shares == {"loader": 0.3, "step": 0.5, "optimizer": 0.2}
    assert result.peak_memory_gib is None
    assert set(result.costs) == {"images_per_second", "time_shares"}


def test_accumulated_batches_are_all_counted(tmp_path, monkeypatch):
    """4 steps of 3 batches: 3 * 2 s of loading beside 3 * 1 s of forward and 1 s of the update."""
    clock = Clock(monkeypatch)
    task = Regression()
    task.forward = clock.after(task.forward, 1.0)

    def prepare(trainer):
        trainer.optimizer.step = clock.after(trainer.optimizer.step, 1.0)

    loader = Slow(clock, 2.0)
    _, result = train(tmp_path, loader=loader, task=task, prepare=prepare, accumulation_steps=3)
    assert result.time_shares == {"loader": 0.6, "step": 0.3, "optimizer": 0.1}


class Event:
    """A mark in the queue of a pretended GPU, at its time in milliseconds."""

    waited = 0

    def __init__(self, at):
        self.at = at

    def elapsed_time(self, other):
        return other.at - self.at

    def synchronize(self):
        Event.waited += 1


def test_on_a_gpu_the_devices_time_counts_and_is_waited_for_once_a_record(monkeypatch):
    times = StepTimes(torch.device("cuda"))
    events = iter([Event(at) for at in (0, 10, 40, 70, 80, 1080, 1090)])
    monkeypatch.setattr(times, "_mark", lambda: next(events))
    Event.waited = 0
    for part in ("step", "loader", "step", "optimizer", None):
        times.switch(part)
    times.settle()
    assert Event.waited == 1
    assert times.seconds == {"loader": 0.03, "step": 0.04, "optimizer": 0.01}
    times.switch("step")  # a second after the last one, which is nobody's
    times.switch(None)
    assert times.shares() == {"loader": 0.333, "step": 0.556, "optimizer": 0.111}


def test_without_a_step_there_are_no_shares():
    assert StepTimes(torch.device("cpu")).shares() == {}
