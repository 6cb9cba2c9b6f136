"""The loop on a linear model, where every step can be written down."""

import itertools
import math
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers.linear_training import IMAGES, Loader, Regression, train, weights
from helpers.ranks import run_on_ranks
from torch import nn

from sslortho.train import state
from sslortho.train.backward import NonFiniteError
from sslortho.train.checkpoint import CheckpointFolder
from sslortho.train.options import LoopOptions
from sslortho.train.progress import Pace, Window
from sslortho.train.records import Reporter, read_metrics
from sslortho.train.step import OptimizerStep
from sslortho.train.trainer import Trainer


class Telling(Regression):
    """Notes what the loop calls, and holds the bias's gradient back."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, views, labels):
        self.calls.append("forward")
        return super().forward(views, labels)

    def before_step(self, step, epoch, total_steps):
        self.calls.append((step, epoch, total_steps))

    def after_backward(self):
        self.calls.append("after_backward")
        assert self.backbone[2].bias.grad is not None
        self.backbone[2].bias.grad = None

    def after_step(self):
        self.calls.append("after_step")


def literal_training(epochs=2, batch_size=4, parts=1, schedule=lambda step: 1.0, skip=()):
    """The same in numpy: momentum SGD on the mean of the parts' gradients."""
    task, loader = Regression(), Loader(batch_size)
    linear = task.backbone[2]
    parameters = np.append(linear.weight.detach().numpy()[0], linear.bias.detach().numpy())
    buffer, losses, step = np.zeros_like(parameters), [], 0
    for epoch in range(epochs):
        permutation = loader.order.permutation(epoch)
        for start in range(0, IMAGES - batch_size * parts + 1, batch_size * parts):
            gradient, loss = np.zeros_like(parameters), 0.0
            for part in range(parts):
                chosen = permutation[start + part * batch_size :][:batch_size]
                x = loader.images[chosen].flatten(1).numpy()
                x = np.hstack([x, np.ones((len(x), 1), dtype=x.dtype)])
                error = x @ parameters - loader.labels[chosen].numpy()
                gradient += 2 * x.T @ error / batch_size / parts
                loss += (error**2).mean() / parts
            if step not in skip:
                buffer = 0.9 * buffer + gradient
                parameters = parameters - 0.1 * schedule(step) * buffer
            losses.append(loss)
            step += 1
    return parameters, losses


def test_training_equals_the_literal_one(tmp_path):
    def schedule(step):
        return 1 / (1 + step)

    task, result = train(tmp_path, schedule=schedule)
    parameters, losses = literal_training(schedule=schedule)
    np.testing.assert_allclose(weights(task).numpy(), parameters, rtol=1e-5, atol=1e-6)
    records = read_metrics(tmp_path / "metrics.jsonl")
    np.testing.assert_allclose([r["loss"] for r in records], losses, rtol=1e-4)
    assert [r["step"] for r in records] == list(range(1, 13))
    assert [r["lr/all"] for r in records] == pytest.approx([0.1 * schedule(s) for s in range(12)])
    assert (result.step, result.stopped_by) == (12, None)
    assert result.images_per_second > 0
    assert task.steps_followed == 12


def test_records_hold_the_mean_over_their_steps(tmp_path):
    train(tmp_path, log_every=4)
    _, losses = literal_training()
    records = read_metrics(tmp_path / "metrics.jsonl")
    # every 4 steps, and what is left at the end of each epoch of 6
    assert [r["step"] for r in records] == [4, 6, 8, 12]
    expected = [np.mean(losses[:4]), np.mean(losses[4:6]), np.mean(losses[6:8]),
                np.mean(losses[8:12])]  # fmt: skip
    np.testing.assert_allclose([r["loss"] for r in records], expected, rtol=1e-4)


def test_accumulated_batches_make_one_step_of_their_mean_gradient(tmp_path):
    task, result = train(tmp_path, loader=Loader(4), accumulation_steps=3)
    parameters, losses = literal_training(batch_size=4, parts=3)
    recorded = [record["loss"] for record in read_metrics(tmp_path / "metrics.jsonl")]
    np.testing.assert_allclose(recorded, losses, rtol=1e-4)
    np.testing.assert_allclose(weights(task).numpy(), parameters, rtol=1e-5, atol=1e-6)
    assert result.step == 4


def test_a_task_is_told_how_far_training_is_and_sees_the_gradients_first(tmp_path):
    task = Telling()
    bias = task.backbone[2].bias.item()
    stop = {(1, 1): lambda: os.kill(os.getpid(), signal.SIGTERM)}
    train(tmp_path, Loader(at_batch=stop), task=task, accumulation_steps=2)
    resumed = Telling()
    train(tmp_path, task=resumed, accumulation_steps=2)
    assert bias == task.backbone[2].bias.item() == resumed.backbone[2].bias.item()
    # 3 steps an epoch, of 2 parts each; the stop was in the 4th
    steps = [(0, 0, 6), (1, 0, 6), (2, 0, 6), (3, 1, 6)], [(4, 1, 6), (5, 1, 6)]
    for calls, told in zip((task.calls, resumed.calls), steps, strict=True):
        each = ["forward", "forward", "after_backward", "after_step"]
        assert calls == [call for step in told for call in (step, *each)]


def test_no_two_steps_ranks_or_seeds_draw_the_same():
    found = []
    for seed, rank, step in itertools.product(range(3), range(3), range(4)):
        accelerator = SimpleNamespace(num_processes=3, process_index=rank)
        own = SimpleNamespace(accelerator=accelerator, options=SimpleNamespace(seed=seed))
        OptimizerStep._seed(own, step)
        found.append(torch.initial_seed())
    assert len(set(found)) == len(found)


def test_the_pace_is_told_once_with_the_steps_left(tmp_path):
    told = []

    def tell(trainer):
        trainer.tell_pace = lambda seconds, left: told.append(left)

    train(tmp_path, prepare=tell)
    assert told == [6]  # of 12, after the first, which compiles, and five that are timed


def test_the_pace_is_the_mean_without_the_first_step():
    pace = Pace()
    assert [pace.add(s) for s in (100.0, 1, 2, 3, 4, 5, 9)] == [None] * 5 + [3.0, None]


def test_more_accumulation_than_an_epoch_has_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="accumulation_steps=7 batches do not fit"):
        train(tmp_path, accumulation_steps=7)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_stops_after_the_step_and_resuming_ends_bitwise_the_same(tmp_path, number):
    whole, _ = train(tmp_path / "whole", dropout=0.5)

    def ask_to_stop():
        os.kill(os.getpid(), number)

    broken = Loader(at_batch={(1, 2): ask_to_stop})
    _, result = train(tmp_path / "broken", loader=broken, dropout=0.5)
    assert (result.step, result.stopped_by) == (9, number)
    resumed, result = train(tmp_path / "broken", dropout=0.5)
    assert (result.step, result.stopped_by) == (12, None)
    assert torch.equal(weights(resumed), weights(whole))
    losses = [
        [r["loss"] for r in read_metrics(tmp_path / run / "metrics.jsonl")]
        for run in ("whole", "broken")
    ]
    assert losses[0] == losses[1]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def figures_by_step(folder):
    """Records in their order, without their times."""
    kept = ("step", "epoch", "loss", "knn_top1")
    records = read_metrics(folder / "metrics.jsonl")
    return [{name: record[name] for name in kept if name in record} for record in records]


def evaluate_weights(task):
    """A figure of the weights alone."""
    return {"knn_top1": float(weights(task).sum())}


@pytest.mark.parametrize("epoch", [1, 2])  # the first evaluation after steps, and the last
def test_an_evaluation_that_is_killed_costs_no_step(tmp_path, capsys, epoch):
    """As by SIGKILL, when an evaluation outlasts what a scheduler leaves after its signal."""
    whole, _ = train(tmp_path / "whole", dropout=0.5, evaluate=evaluate_weights)
    evaluated = []

    def killed(task):
        evaluated.append(task)
        if len(evaluated) == 1 + epoch:  # there is one before the first step
            raise MemoryError("killed")
        return evaluate_weights(task)

    with pytest.raises(MemoryError):
        train(tmp_path / "broken", dropout=0.5, evaluate=killed)
    capsys.readouterr()
    resumed, _ = train(tmp_path / "broken", dropout=0.5, evaluate=evaluate_weights)
    assert f"resuming at step {6 * epoch}\n" in capsys.readouterr().out
    assert torch.equal(weights(resumed), weights(whole))
    assert figures_by_step(tmp_path / "broken") == figures_by_step(tmp_path / "whole")


def test_a_signal_in_the_last_evaluation_is_not_lost(tmp_path):
    evaluated = []

    def evaluate(task):
        evaluated.append(task)
        if len(evaluated) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate_weights(task)

    stopped, result = train(tmp_path, evaluate=evaluate)
    assert (result.step, result.stopped_by) == (12, signal.SIGTERM)
    again, result = train(tmp_path, evaluate=evaluate)
    assert (result.step, result.stopped_by) == (12, None)
    assert len(evaluated) == 3  # nothing is repeated
    assert torch.equal(weights(again), weights(stopped))


def test_a_signal_handler_that_is_not_pythons_does_not_end_training(tmp_path, monkeypatch):
    """Where Python is embedded, signal.signal says None of it, and does not take None."""
    plain = signal.signal
    monkeypatch.setattr(signal, "signal", lambda number, handler: plain(number, handler) and None)
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    try:
        _, result = train(tmp_path)
        after = {signal.getsignal(number) for number in before}
    finally:
        monkeypatch.undo()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert result.step == 12
    assert after == {signal.SIG_DFL}


def _stop_one_rank_in_the_last_step_of_an_epoch(rank, folder):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    evaluated = []
    ask = {(0, 5): lambda: os.kill(os.getpid(), signal.SIGUSR1)} if rank == 1 else {}

    def evaluate(task):
        evaluated.append(0)
        return {}

    _, stopped = train(folder, Loader(at_batch=ask), evaluate=evaluate)
    before = len(evaluated)
    _, resumed = train(folder, evaluate=evaluate)
    results = [[result.step, result.stopped_by] for result in (stopped, resumed)]
    return [*results, before, len(evaluated)]


@pytest.mark.ranks
def test_ranks_hear_a_signal_before_they_evaluate(tmp_path):
    """An epoch has 6 steps, fewer than the 10 between their other agreements."""
    found = run_on_ranks(_stop_one_rank_in_the_last_step_of_an_epoch, 2, tmp_path, tmp_path / "run")
    # the evaluation before the first step, then those of the two epochs
    assert found == [[[6, signal.SIGUSR1], [12, None], 1, 3]] * 2


def _record_on_a_rank(rank, folder):
    """Labels that differ from rank to rank: a training as it is, and one that is stopped between records."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    trainers = []

    def train_shifted(name, at_batch=None):
        loader = Loader(at_batch=at_batch)
        loader.labels = loader.labels + rank
        train(folder / name, loader, prepare=trainers.append, log_every=4)

    train_shifted("whole")
    train_shifted("broken", {(0, 1): lambda: os.kill(os.getpid(), signal.SIGTERM)})
    train_shifted("broken")
    return trainers[0].clock.images


@pytest.mark.ranks
def test_records_are_means_over_the_ranks(tmp_path):
    images = run_on_ranks(_record_on_a_rank, 2, tmp_path, tmp_path)
    assert images == [2 * 2 * IMAGES] * 2  # of two ranks, in two epochs
    whole, broken = (
        [record["loss"] for record in read_metrics(tmp_path / run / "metrics.jsonl")]
        for run in ("whole", "broken")
    )
    # labels y and y + 1: the gradient is that of their mean y + 1/2, and the mean loss is 1/4 above its loss
    alone = Loader()
    alone.labels = alone.labels + 0.5
    train(tmp_path / "alone", alone, log_every=4)
    expected = [r["loss"] + 0.25 for r in read_metrics(tmp_path / "alone" / "metrics.jsonl")]
    assert whole == pytest.approx(expected, rel=1e-5)
    assert broken == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("batch", [(1, 2), (1, 5)])  # 9 steps of 12; the last of an epoch
def test_a_stop_between_two_records_changes_neither(tmp_path, batch):
    train(tmp_path / "whole", log_every=4)
    broken = Loader(at_batch={batch: lambda: os.kill(os.getpid(), signal.SIGTERM)})
    train(tmp_path / "broken", loader=broken, log_every=4)
    train(tmp_path / "broken", log_every=4)
    whole, resumed = (
        [(r["step"], r["loss"]) for r in read_metrics(tmp_path / run / "metrics.jsonl")]
        for run in ("whole", "broken")
    )
    assert resumed == whole


def test_a_crash_costs_what_came_after_the_last_checkpoint(tmp_path):
    whole, _ = train(tmp_path / "whole", dropout=0.5)

    def crash():
        raise MemoryError("killed")

    with pytest.raises(MemoryError):
        train(tmp_path / "broken", loader=Loader(at_batch={(1, 3): crash}), dropout=0.5)
    assert len(read_metrics(tmp_path / "broken" / "metrics.jsonl")) == 9
    resumed, _ = train(tmp_path / "broken", dropout=0.5)
    assert torch.equal(weights(resumed), weights(whole))
    records = read_metrics(tmp_path / "broken" / "metrics.jsonl")
    assert [r["step"] for r in records] == list(range(1, 13))


def test_a_finished_run_takes_no_more_steps(tmp_path):
    first, _ = train(tmp_path)
    again, result = train(tmp_path)
    assert torch.equal(weights(first), weights(again))
    assert result.step == 12
    assert np.isnan(result.images_per_second)
    assert result.costs == {}  # nothing is known


def test_steps_with_non_finite_gradients_are_skipped(tmp_path):
    task, _ = train(tmp_path, loader=Loader(poison=[(0, 1), (0, 2), (1, 0)]), max_bad_steps=3)
    parameters, _ = literal_training(skip={1, 2, 6})
    np.testing.assert_allclose(weights(task).numpy(), parameters, rtol=1e-5, atol=1e-6)
    assert task.steps_followed == 9
    assert read_metrics(tmp_path / "metrics.jsonl")[1]["loss"] is None


@pytest.mark.parametrize("stop", [{}, {(0, 2): lambda: os.kill(os.getpid(), signal.SIGTERM)}])
def test_a_skipped_step_does_not_take_the_others_out_of_a_record(tmp_path, stop):
    """Also where training stops between the skipped step and the record, and where a record begins with one."""
    poison, skip = [(0, 1), (0, 4), (1, 2), (1, 3)], {1, 4, 8, 9}
    task, result = train(tmp_path, Loader(poison=poison, at_batch=stop), log_every=4)
    if stop:
        assert result.step == 3
        task, result = train(tmp_path, Loader(poison=poison), log_every=4)
    parameters, losses = literal_training(skip=skip)
    np.testing.assert_allclose(weights(task).numpy(), parameters, rtol=1e-5, atol=1e-6)
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in records] == [4, 6, 8, 12]
    windows = [(0, 2, 3), (5,), (6, 7), (10, 11)]
    expected = [np.mean([losses[step] for step in steps]) for steps in windows]
    np.testing.assert_allclose([r["loss"] for r in records], expected, rtol=1e-4)
    assert all(np.isfinite(r["grad_norm"]) for r in records)
    assert result.loss == pytest.approx(expected[-1], rel=1e-4)


def test_the_window_of_an_older_checkpoint_is_read():
    sums = {"loss": torch.tensor(6.0)}
    window = Window.restored({"sums": sums, "images": 12, "steps": 3})
    assert float(window.means()["loss"]) == 2
    assert Window.restored({}) == Window()
    assert Window.restored(window.state()) == window


def test_a_skipped_step_leaves_no_trace_in_batch_norm(tmp_path):
    task = Regression()
    task.backbone.append(nn.BatchNorm1d(1))
    accelerator = Accelerator(cpu=True)
    loader = Loader()
    loader.images[loader.order.permutation(0)[4]] = float("inf")  # in the second batch
    Trainer(
        task,
        torch.optim.SGD(task.parameters(), lr=0.1),
        loader,
        accelerator=accelerator,
        schedule=lambda step: 1.0,
        options=LoopOptions(epochs=1),
        reporter=Reporter(tmp_path, accelerator, total_steps=6),
        checkpoints=CheckpointFolder(tmp_path / "checkpoints"),
    ).run()
    norm = task.backbone[-1]
    assert norm.running_mean.isfinite().all()
    assert norm.running_var.isfinite().all()
    assert int(norm.num_batches_tracked) == 5


def test_too_many_bad_steps_in_a_row_stop_with_step_and_names(tmp_path):
    loader = Loader(poison=[(1, 1), (1, 2), (1, 3)])
    pattern = r"step 10: the gradients of backbone\.2\.weight, backbone\.2\.bias .* \(loss nan\)"
    with pytest.raises(NonFiniteError, match=pattern):
        train(tmp_path, loader=loader, max_bad_steps=3)
    assert CheckpointFolder(tmp_path / "checkpoints").load_latest()["progress"]["step"] == 6


class Huge(Regression):
    """Finite gradients whose squares overflow."""

    def forward(self, views, labels):
        return {"loss": super().forward(views, labels)["loss"] * 1e25}


def test_gradients_whose_norm_alone_overflows_are_told_as_that(tmp_path):
    accelerator = Accelerator(cpu=True)
    task = Huge()
    trainer = Trainer(
        task,
        torch.optim.SGD(task.parameters(), lr=0.1),
        Loader(),
        accelerator=accelerator,
        schedule=lambda step: 1.0,
        options=LoopOptions(epochs=1, max_bad_steps=2),
        reporter=Reporter(tmp_path, accelerator, total_steps=6),
        checkpoints=CheckpointFolder(tmp_path / "checkpoints"),
    )
    with pytest.raises(NonFiniteError, match="step 2: the norm of all gradients is not finite"):
        trainer.run()


class Steep(Regression):
    """A loss whose gradient overflows, as in fp16, under a scale above `most`."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def forward(self, views, labels):
        metrics = super().forward(views, labels)
        return {"loss": Overflow.apply(metrics["loss"], self.most)}


class Overflow(torch.autograd.Function):
    """Identity whose gradient becomes infinite above a limit."""

    @staticmethod
    def forward(ctx, value, most):
        ctx.most = most
        return value.clone()

    @staticmethod
    def backward(ctx, grad):
        return torch.where(grad > ctx.most, torch.inf, grad), None


def train_scaled(
    folder, most, scaler=torch.amp.GradScaler, before=lambda accelerator: None, **options
):
    """Training with the gradient scaler of fp16, which begins at 65,536, or with none; `before` its steps."""
    task = Steep(most)
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = scaler and scaler("cpu")
    optimizer = torch.optim.SGD(task.parameters(), lr=0.01)
    trainer = Trainer(
        task,
        optimizer,
        Loader(),
        accelerator=accelerator,
        schedule=lambda step: 1.0,
        options=LoopOptions(epochs=4, log_every=1, **options),
        reporter=Reporter(folder, accelerator, total_steps=24),
        checkpoints=CheckpointFolder(folder / "checkpoints"),
    )
    before(accelerator)
    return task, trainer.run()


def test_each_group_follows_the_schedule_at_its_own_rate(tmp_path):
    task, accelerator = Regression(), Accelerator(cpu=True)
    linear = task.backbone[2]
    groups = [
        {"params": [linear.weight], "name": "w"},
        {"params": [linear.bias], "lr": 0.0, "name": "b"},
    ]
    before = linear.bias.detach().clone()
    Trainer(
        task,
        torch.optim.SGD(groups, lr=0.1),
        Loader(),
        accelerator=accelerator,
        schedule=lambda step: 1 / (1 + step),
        options=LoopOptions(epochs=1, log_every=1),
        reporter=Reporter(tmp_path, accelerator, total_steps=6),
        checkpoints=CheckpointFolder(tmp_path / "checkpoints"),
    ).run()
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["lr/w"] for r in records] == pytest.approx([0.1 / (1 + s) for s in range(6)])
    assert [r["lr/b"] for r in records] == [0.0] * 6
    assert torch.equal(linear.bias, before)


def test_the_scale_that_was_found_is_kept_by_a_resumed_training(tmp_path):
    kept = []
    train_scaled(tmp_path, most=4.0, max_bad_steps=10)
    train_scaled(tmp_path, most=4.0, max_bad_steps=10, before=kept.append)
    assert kept[0].scaler.get_scale() == 4.0


def test_the_scaler_of_fp16_may_look_for_its_scale(tmp_path):
    # 14 halvings, from 65,536 to 4, are more than the 10 bad steps that end a training
    task, result = train_scaled(tmp_path, most=4.0, max_bad_steps=10)
    assert result.step == 24
    assert task.steps_followed == 10
    found = read_metrics(tmp_path / "metrics.jsonl")
    norms = [record["grad_norm"] for record in found if "grad_norm" in record]
    assert len(norms) == 10
    assert np.isfinite(norms).all()


def test_the_norms_of_scaled_gradients_are_those_of_gradients(tmp_path, monkeypatch):
    def pretend(accelerator):  # Accelerate unscales under fp16 alone
        monkeypatch.setattr(Accelerator, "mixed_precision", "fp16")
        accelerator.native_amp = True

    train_scaled(tmp_path / "scaled", most=math.inf, before=pretend)
    monkeypatch.undo()
    train_scaled(tmp_path / "plain", most=math.inf, scaler=None)
    norms = [
        [record["grad_norm"] for record in read_metrics(tmp_path / run / "metrics.jsonl")]
        for run in ("scaled", "plain")
    ]
    assert len(norms[0]) == 24
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_gradients_that_overflow_at_a_small_scale_too_end_training(tmp_path):
    with pytest.raises(NonFiniteError, match="for the 3th step in a row"):
        train_scaled(tmp_path, most=0.0, max_bad_steps=3)


def test_evaluation_before_the_first_step_then_every_so_many_epochs_and_last(tmp_path):
    seen = []

    def evaluate(task):
        seen.append(task)
        return {"knn_top1": float(len(seen))}

    task, _ = train(tmp_path, evaluate=evaluate, evaluate_every=2, epochs=5)
    records = [r for r in read_metrics(tmp_path / "metrics.jsonl") if "knn_top1" in r]
    assert [(r["step"], r["epoch"]) for r in records] == [(0, 0), (12, 2), (24, 4), (30, 5)]
    assert all(evaluated is task for evaluated in seen)


def test_checkpoints_hold_the_configuration_and_the_newest_are_kept(tmp_path):
    train(tmp_path, epochs=5, checkpoint_every=2)
    folder = CheckpointFolder(tmp_path / "checkpoints")
    assert [path.name[:13] for path in folder.list()] == ["step-00000024", "step-00000030"]
    state = folder.load_latest()
    assert state["config"] == LoopOptions(epochs=5, log_every=1, checkpoint_every=2).values()
    assert state["progress"]["epoch"] == 5


def test_gradients_are_logged_with_every_record_when_asked(tmp_path):
    """The model has matrices of one row, whose polar factor is the gradient over its norm."""
    train(tmp_path / "on", epochs=2, log_every=4, log_gradients=True)
    train(tmp_path / "off", epochs=2, log_every=4)
    on, off = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("on", "off"))
    extra = {key for record in on for key in record} - {key for record in off for key in record}
    assert len(extra) == 4
    for record in on:
        figures = {key.split("/")[0]: record[key] for key in extra}
        assert figures["cosine"] == pytest.approx(1, abs=1e-5)
        assert figures["effective_rank"] == pytest.approx(1, abs=1e-5)
        # of one vector: the distance to the unit vector of the same direction
        norm = figures["gradient_norm"]
        assert figures["distance"] == pytest.approx(abs(1 - norm), abs=1e-5)
    assert [r["loss"] for r in on] == [r["loss"] for r in off]


def test_two_interrupts_end_at_once_and_lose_nothing_that_was_saved(tmp_path, capsys):
    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, loader=Loader(at_batch={(1, 2): interrupt}))
    assert CheckpointFolder(tmp_path / "checkpoints").load_latest()["progress"]["step"] == 6
    assert "ended early, after step 8; the same command resumes from" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    resumed, _ = train(tmp_path)
    assert torch.equal(weights(resumed), weights(train(tmp_path / "whole")[0]))


def test_a_run_folder_that_vanishes_ends_training_and_stays_away(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(OSError, match=r"No such file"):
        train(folder, loader=Loader(at_batch={(1, 2): lambda: folder.rename(tmp_path / "away")}))
    assert not folder.exists()
    (tmp_path / "away").rename(folder)
    resumed, _ = train(folder)
    assert torch.equal(weights(resumed), weights(train(tmp_path / "whole")[0]))


def test_going_on_with_other_threads_is_said(tmp_path, capsys):
    train(tmp_path, epochs=1)
    assert "resuming" not in capsys.readouterr().out
    train(tmp_path, epochs=2)
    assert "resuming at step 6\n" in capsys.readouterr().out
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        train(tmp_path, epochs=3)
    finally:
        torch.set_num_threads(threads)
    said = f"such as dropout (threads {threads} then, {threads + 1} now)"
    assert said in capsys.readouterr().out


def test_ranks_that_see_different_checkpoints_are_refused(monkeypatch):
    class Two:
        num_processes = 2

    monkeypatch.setattr(state, "gather_object", lambda ours: [*ours, 0])
    with pytest.raises(ValueError, match=r"rank 0 step 6, rank 1 step 0.*all machines share"):
        state.check_agreement({"progress": {"step": 6}}, Two())
