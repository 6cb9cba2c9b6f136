"""Nothing grows with the length of a run but its records."""

import ctypes
import gc
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from sslortho.data import Batch
from sslortho.methods import Task
from sslortho.train.checkpoint import CheckpointFolder
from sslortho.train.options import LoopOptions
from sslortho.train.records import Reporter
from sslortho.train.trainer import Trainer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(autouse=True)
def clean_process():
    """Clear away objects and free memory of other tests.

    The collector would pass over a million objects, and a leak would hide in the free memory.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    gc.freeze()
    yield
    gc.unfreeze()


STEPS, PER_EPOCH = 2000, 100
MAY_GROW = 3 << 20
"""Bytes: what allocators keep back differs by some pages. A tensor of 8 KB a step would be 12 MB."""


class Linear(Task):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(64, 64)

    def forward(self, views, labels):
        loss = self.backbone(views[0].flatten(1)).square().mean()
        return {"loss": loss, "half": loss.detach() / 2}


class Watching:
    """A loader that notes, every 50 steps, this process's memory and open files."""

    def __init__(self, leak):
        self.leak = leak
        self.kept = []
        self.memory, self.files = [], []
        self.steps = 0

    def __len__(self):
        return PER_EPOCH

    def set_epoch(self, epoch, start_step=0):
        pass

    def __iter__(self):
        for _ in range(PER_EPOCH):
            if self.steps % 50 == 0:
                gc.collect()
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                self.memory.append(pages * os.sysconf("SC_PAGE_SIZE"))
                self.files.append(len(list(Path("/proc/self/fd").iterdir())))
            self.steps += 1
            view = torch.ones(4, 4, 4, 4)
            if self.leak:
                self.kept.append((np.ones(1000), os.open("/dev/null", os.O_RDONLY)))
            yield Batch((view,), torch.zeros(4, dtype=torch.long))


def train(folder, steps, leak):
    task, loader, accelerator = Linear(), Watching(leak), Accelerator(cpu=True)
    reporter = Reporter(folder, accelerator, steps)
    Trainer(
        task,
        torch.optim.SGD(task.parameters(), lr=1e-3, momentum=0.9),
        loader,
        accelerator=accelerator,
        schedule=lambda step: 1.0,
        options=LoopOptions(epochs=steps // PER_EPOCH, log_every=1),
        reporter=reporter,
        checkpoints=CheckpointFolder(folder / "checkpoints", keep_last=2),
    ).run()
    reporter.close()
    for _, file in loader.kept:
        os.close(file)
    return loader


def growth(values):
    """From after a quarter of the run to its end."""
    start = len(values) // 4
    return max(values[-3:]) - max(values[start : start + 3])


@pytest.mark.slow
def test_memory_files_and_disk_stay_as_they_are(tmp_path):
    loader = train(tmp_path, STEPS, leak=False)
    assert loader.steps == STEPS
    assert growth(loader.memory) < MAY_GROW
    assert growth(loader.files) <= 0
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == STEPS


@pytest.mark.slow
def test_a_leak_would_be_seen(tmp_path):
    """In less steps, and by as much less memory, than above."""
    loader = train(tmp_path, STEPS // 2, leak=True)
    assert growth(loader.memory) > MAY_GROW
    assert growth(loader.files) > 100
