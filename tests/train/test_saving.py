"""Checkpoints written while training goes on, against those written at once."""

import os
import signal
import threading
from concurrent import futures

import pytest
import torch
from accelerate import Accelerator
from helpers.linear_training import Loader, train, weights
from torch import nn

from sslortho.train.checkpoint import CheckpointFolder
from sslortho.train.progress import Progress, Window
from sslortho.train.saving import CheckpointWriter, HostCopies
from sslortho.train.state import checkpoint_state


def test_copies_keep_their_values_and_their_memory():
    tensors = [torch.randn(3, 4), torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)]
    tensors += [torch.tensor(7), torch.zeros(0), torch.randn(4, 3).t()]
    copies = HostCopies()
    for _ in range(2):
        expected = [tensor.clone() for tensor in tensors]
        made = [copies(tensor) for tensor in tensors]
        assert copies.finish() is None
        for tensor in tensors:
            tensor.add_(1)
        for copy, value, tensor in zip(made, expected, tensors, strict=True):
            assert torch.equal(copy, value)
            assert copy.stride() == tensor.stride()
        memory = [copy.data_ptr() for copy in made]
    again = [copies(tensor) for tensor in tensors]
    assert [copy.data_ptr() for copy in again] == memory


def test_a_tied_weight_is_copied_once_and_one_of_another_kind_is_not_taken_for_it():
    weight = torch.randn(4, 4)
    copies = HostCopies()
    assert copies(weight) is copies(weight.detach())
    assert torch.equal(copies(weight.t()), weight.t())
    assert torch.equal(copies(weight.view(torch.int32)), weight.view(torch.int32))
    copies.finish()
    assert torch.equal(copies(torch.ones(2, dtype=torch.int8)), torch.ones(2, dtype=torch.int8))


class Held(CheckpointFolder):
    """Writes nothing until it is let."""

    def __init__(self, path):
        super().__init__(path)
        self.may_write = threading.Event()
        self.begun = []

    def save(self, state, step):
        self.begun.append(step)
        assert self.may_write.wait(30)
        return super().save(state, step)


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path):
    """The file holds the weights of its own step, though later steps have changed them since."""
    held = Held(tmp_path / "held" / "checkpoints")
    weights_at_6 = []

    def let_it_write():
        assert held.begun == [6]
        assert held.list() == []
        held.may_write.set()

    def hold(trainer):
        trainer.writer.folder = trainer.checkpoints = held

    task, _ = train(tmp_path / "held", Loader(at_batch={(1, 3): let_it_write}), prepare=hold)
    plain, _ = train(tmp_path / "plain", epochs=1)
    weights_at_6 = torch.load(held.list()[0], weights_only=True)["task"].values()
    assert torch.equal(torch.cat([w.flatten() for w in weights_at_6]), weights(plain))
    assert held.begun == [6, 12]
    last = held.load_latest()
    assert torch.equal(torch.cat([w.flatten() for w in last["task"].values()]), weights(task))


def test_files_are_those_that_are_written_at_once(tmp_path):
    state = {"weights": torch.randn(100), "nested": [{"step": torch.tensor(3.0)}], "x": 1}
    copies = HostCopies()
    written = CheckpointFolder(tmp_path / "once").save(state, 1)
    folder = CheckpointFolder(tmp_path / "thread")
    writer = CheckpointWriter(folder)
    copied = {"weights": copies(state["weights"]), "nested": [{"step": torch.tensor(3.0)}], "x": 1}
    writer.save(copied, 1)
    writer.wait()
    writer.close()
    assert [path.name for path in folder.list()] == [written.name]  # its checksum


class Full(CheckpointFolder):
    """No room from the second checkpoint on."""

    def __init__(self, path):
        super().__init__(path)
        self.tried = threading.Event()

    def save(self, state, step):
        if self.list():
            self.tried.set()
            raise OSError(28, "No space left on device")
        return super().save(state, step)


@pytest.mark.parametrize("epochs", [2, 4])  # at the end, and on the way
def test_a_checkpoint_that_cannot_be_written_ends_training(tmp_path, epochs, capsys):
    full = Full(tmp_path / "checkpoints")

    trainers = []

    def fill(trainer):
        trainer.writer.folder = trainer.checkpoints = full
        trainers.append(trainer)

    def await_failure():
        full.tried.wait(30)
        futures.wait([trainers[0].writer.under_way], 30)

    loader = Loader(at_batch={(2, 0): await_failure})
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path, loader, prepare=fill, epochs=epochs)
    assert full.load_latest()["progress"]["step"] == 6
    said = capsys.readouterr().out
    assert "ended early" in said
    assert "the same command resumes from" in said
    step = int(said.split("after step ")[1].split(";")[0])
    assert step == 12 if epochs == 2 else step < 18  # told before the next checkpoint is due
    resumed, _ = train(tmp_path, epochs=epochs)
    assert torch.equal(weights(resumed), weights(train(tmp_path / "whole", epochs=epochs)[0]))


class FullOnce(Full):
    """No room for the second checkpoint alone."""

    def save(self, state, step):
        if self.tried.is_set():
            return CheckpointFolder.save(self, state, step)
        return super().save(state, step)


def test_a_signal_after_a_failed_write_tries_again(tmp_path, capsys):
    """The write of step 12 fails while step 13 is taken; the signal comes within that step."""
    full = FullOnce(tmp_path / "checkpoints")

    def fill(trainer):
        trainer.writer.folder = trainer.checkpoints = full

    def stop():
        assert full.tried.wait(30)
        os.kill(os.getpid(), signal.SIGTERM)

    _, result = train(tmp_path, Loader(at_batch={(2, 0): stop}), prepare=fill, epochs=4)
    assert (result.stopped_by, result.step) == (signal.SIGTERM, 13)
    assert full.load_latest()["progress"]["step"] == 13
    assert "No space left on device" in capsys.readouterr().out


def test_a_failed_write_is_told_where_another_error_ends_training(tmp_path, capsys):
    full = Full(tmp_path / "checkpoints")

    def fill(trainer):
        trainer.writer.folder = trainer.checkpoints = full

    def fail():
        assert full.tried.wait(30)
        raise KeyError("image 7")

    with pytest.raises(KeyError, match="image 7"):
        train(tmp_path, Loader(at_batch={(2, 0): fail}), prepare=fill, epochs=4)
    said = capsys.readouterr().out
    assert "No space left on device" in said
    assert "ended early, after step 12" in said


def test_an_error_is_raised_once_by_the_next_call(tmp_path):
    full = Full(tmp_path)
    writer = CheckpointWriter(full)
    writer.save({"value": 1}, 1)
    writer.save({"value": 2}, 2)
    with pytest.raises(OSError, match="No space left"):
        writer.save({"value": 3}, 3)
    writer.check()
    writer.wait()
    writer.close()


def test_closing_does_not_wait_again(tmp_path):
    """Where Ctrl-C has ended the wait, `close` would else begin another."""
    held = Held(tmp_path)
    writer = CheckpointWriter(held)
    writer.save({"value": 1}, 1)
    closing = threading.Thread(target=writer.close)
    closing.start()
    closing.join(20)
    waits = closing.is_alive()
    held.may_write.set()
    assert not waits
    writer.wait()
    assert len(held.list()) == 1


def test_memory_of_weights_is_reused_though_the_window_varies():
    task = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
    copies, ranks, addresses = HostCopies(), Accelerator(cpu=True), []
    for sums in ({"loss": torch.ones(())}, {}, {"loss": torch.ones(()), "norm": torch.ones(())}):
        window = Window(sums=sums)
        state = checkpoint_state(Progress(), window, task, optimizer, ranks, copies)
        copies.finish()
        addresses.append([value.data_ptr() for value in state["task"].values()])
    assert addresses[0] == addresses[1] == addresses[2]


@pytest.mark.gpu
def test_copies_of_a_gpu_are_pinned_and_have_their_values_at_the_event():
    tensor = torch.randn(1000, 1000, device="cuda")
    expected = tensor.cpu()
    copies = HostCopies()
    copy = copies(tensor)
    event = copies.finish()
    tensor.zero_()
    assert copy.is_pinned()
    event.synchronize()
    assert torch.equal(copy, expected)
