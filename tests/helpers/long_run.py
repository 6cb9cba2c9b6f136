"""A training run that is watched: the memory and the open files of its process.

In a module of its own, for it runs in a process of its own: one that has run other tests holds gigabytes, whose
pages come and go.
"""

import gc
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from sslortho.data import Batch
from sslortho.methods import Task
from sslortho.train.checkpoint import CheckpointFolder
from sslortho.train.options import LoopOptions
from sslortho.train.records import Reporter
from sslortho.train.trainer import Trainer

PER_EPOCH = 100


class Watched(NamedTuple):
    """Bytes of memory and open files, every 50 steps, and the number of steps."""

    memory: list[int]
    files: list[int]
    steps: int


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
    torch.set_num_threads(1)
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
    return Watched(loader.memory, loader.files, loader.steps)


def train_alone(folder, steps, leak):
    """As train, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(train, folder, steps, leak).result()
