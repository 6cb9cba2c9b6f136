"""A training step does not wait for the GPU, but once: for the norm of the gradients."""

import pytest
import torch
from accelerate import Accelerator
from helpers.methods import BATCH, create, draw_views
from helpers.waiting import Waits

from sslortho.data import Batch
from sslortho.methods.registry import METHODS
from sslortho.optim.registry import OPTIMIZERS, accepted_options, create_optimizer
from sslortho.train import trainer as loop
from sslortho.train.checkpoint import CheckpointFolder
from sslortho.train.options import LoopOptions
from sslortho.train.records import Reporter
from sslortho.train.skipping import Arriving

PAIRS = [("barlow_twins", optimizer) for optimizer in OPTIMIZERS]
PAIRS += [(method, "orth_lars") for method in METHODS if method != "barlow_twins"]
STEPS = 3


class Views:
    """Batches of views of noise."""

    def __init__(self, device):
        self.device = device

    def __len__(self):
        return STEPS

    def set_epoch(self, epoch, start_step=0):
        pass

    def move(self, view):
        if self.device.type == "cuda":  # a copy of memory that is not pinned waits
            view = view.pin_memory()
        return view.to(self.device, non_blocking=True)

    def __iter__(self):
        for seed in range(STEPS):
            views = tuple(self.move(view) for view in draw_views(seed=seed))
            yield Batch(views, torch.zeros(BATCH, dtype=torch.long, device=self.device))


def create_trainer(folder, method, optimizer, accelerator):
    task = create(method).to(accelerator.device)
    # as "auto" is on a GPU
    polar = {"polar": "polar_express"} if "polar" in accepted_options(optimizer) else {}
    return loop.Trainer(
        task,
        create_optimizer(optimizer, task.parameters(), lr=1e-3, **polar),
        Views(accelerator.device),
        accelerator=accelerator,
        schedule=lambda step: 1.0,
        options=LoopOptions(epochs=1, log_every=STEPS, evaluate_every=0),
        reporter=Reporter(folder, accelerator, total_steps=STEPS),
        checkpoints=CheckpointFolder(folder / "checkpoints"),
    )


@pytest.mark.parametrize(("method", "optimizer"), PAIRS)
def test_a_step_waits_for_the_norm_alone(tmp_path, monkeypatch, method, optimizer):
    trainer = create_trainer(tmp_path, method, optimizer, Accelerator(cpu=True))
    step, found, reads = trainer._step, [], []

    def steps_of_adam():
        states = trainer.optimizer.state.values()
        return [state["step"] for state in states if isinstance(state.get("step"), torch.Tensor)]

    def watched_step(*arguments):
        with Waits(on_host=steps_of_adam) as waits:
            step(*arguments)
        if trainer.progress.step:  # the first one makes tables, on the host
            found.extend(waits.found)

    monkeypatch.setattr(trainer, "_step", watched_step)
    read = Arriving.read
    monkeypatch.setattr(Arriving, "read", lambda norm: reads.append(norm) or read(norm))
    assert trainer.run().step == STEPS
    assert len(reads) == STEPS
    assert len([line for line in found if "skipping.py" in line]) == STEPS - 1
    assert [line for line in found if "skipping.py" not in line] == []


def test_the_test_sees_what_waits():
    values, mask = torch.tensor([1.0, 0.0]), torch.tensor([True, False])
    count = torch.tensor(3.0)
    waiting = [
        lambda: float(values[0]),
        lambda: bool(values.sum() > 0),
        lambda: values[mask],
        lambda: values.masked_select(mask),
        lambda: values.nonzero(),
        lambda: torch.equal(values, values),
        lambda: values.unique(),
        lambda: values.cpu(),
        lambda: values.tolist(),
        lambda: values.numpy(),
        lambda: values.repeat_interleave(torch.tensor([1, 2])),
        lambda: values.__setitem__(mask, torch.tensor([2.0])),
    ]
    free = [
        lambda: values[torch.tensor([0, 1])],
        lambda: values.masked_fill(mask, 0),
        lambda: torch.where(mask, values, 0),
        lambda: values.repeat_interleave(torch.tensor([1, 2]), output_size=3),
        lambda: count.item(),
    ]
    for operation in waiting + free:
        with Waits(on_host=lambda: [count]) as waits:
            operation()
        assert bool(waits.found) == (operation in waiting)


@pytest.mark.gpu
@pytest.mark.parametrize(("method", "optimizer"), PAIRS)
def test_on_a_gpu_no_step_waits_otherwise(tmp_path, monkeypatch, method, optimizer):
    monkeypatch.setitem(globals(), "STEPS", 5)
    trainer = create_trainer(tmp_path, method, optimizer, Accelerator())
    step = trainer._step

    def strict_step(*arguments):
        # the first one compiles kernels and makes tables on the device, the third captures a graph
        torch.cuda.set_sync_debug_mode("error" if trainer.progress.step >= 3 else "default")
        try:
            step(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(trainer, "_step", strict_step)
    assert trainer.run().step == STEPS
