"""Trainings of a linear model by the loop, small enough to be written down."""

import torch
from accelerate import Accelerator
from torch import nn

from sslortho.data import Batch, EpochOrder
from sslortho.methods import Task
from sslortho.train.checkpoint import CheckpointFolder
from sslortho.train.options import LoopOptions
from sslortho.train.records import Reporter
from sslortho.train.trainer import Trainer

IMAGES, SIZE = 24, 12


class Regression(Task):
    """Fits labels by a linear map of the pixels, behind dropout."""

    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(SIZE, 1))
        self.steps_followed = 0

    def forward(self, views, labels):
        error = self.backbone(views[0]).squeeze(1) - labels
        return {"loss": error.square().mean(), "bias": self.backbone[2].bias.detach().mean()}

    def after_step(self):
        self.steps_followed += 1


class Loader:
    """Batches of fixed images; `poison` holds (epoch, batch) whose labels are NaN."""

    def __init__(self, batch_size=4, poison=(), at_batch=None):
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randn(IMAGES, 3, 2, 2, generator=generator)
        self.labels = torch.randn(IMAGES, generator=generator)
        self.order = EpochOrder(IMAGES, batch_size)
        self.poison = set(poison)
        self.at_batch = at_batch or {}
        self.epoch = self.start = 0

    def __len__(self):
        return len(self.order)

    def set_epoch(self, epoch, start_step=0):
        self.epoch, self.start = epoch, start_step

    def __iter__(self):
        steps = self.order.steps(self.epoch, self.start)
        for step, indices in enumerate(steps, start=self.start):
            if (self.epoch, step) in self.at_batch:
                self.at_batch[self.epoch, step]()
            labels = self.labels[indices]
            if (self.epoch, step) in self.poison:
                labels = labels * float("nan")
            yield Batch((self.images[indices],), labels)


def train(
    folder,
    loader=None,
    dropout=0.0,
    evaluate=None,
    schedule=lambda step: 1.0,
    task=None,
    prepare=lambda trainer: None,
    **options,
):
    """Task and result of a training; `prepare` is given the trainer before it runs."""
    task = task or Regression(dropout)
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.SGD(task.parameters(), lr=0.1, momentum=0.9)
    options = LoopOptions(**{"epochs": 2, "log_every": 1, **options})
    trainer = Trainer(
        task,
        optimizer,
        loader or Loader(),
        accelerator=accelerator,
        schedule=schedule,
        options=options,
        reporter=Reporter(folder, accelerator, total_steps=12),
        checkpoints=CheckpointFolder(folder / "checkpoints"),
        evaluate=evaluate,
    )
    prepare(trainer)
    return task, trainer.run()


def weights(task):
    return torch.cat([p.detach().flatten() for p in task.parameters()])
