"""Entrants of the speedrun: the toolkit by its command, and lightly's recipes; all judged alike."""

import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from speedrun_parts.records import digest_config
from sslortho.data import available_cores
from sslortho.models import BackboneInfo, create_backbone, write_backbone

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation by which lightly normalises."""

BATCH, RATE = 128, 0.06
"""Batch of lightly's CIFAR-10 benchmark, and the rate for it; the rate of other batches is in proportion."""

WARM_UP, TIMED = 3, 20
"""Steps before the clock, and steps timed, where the length of a run is chosen by its time."""


@dataclass(frozen=True)
class Task:
    """Images, folders and network that all entrants share.

    Attributes:
        cifar: folder with train/CLASS and test/CLASS.
        work: folder for runs and weights.
        threads: of the CPU; None for torch's own number.
        network: backbone by name.
    """

    cifar: Path
    work: Path
    threads: int | None = None
    network: str = "resnet20"

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that all runs of one table must share."""
        return {"network": self.network, "threads": self.threads or torch.get_num_threads()}

    def run(self, command: str, *arguments: str) -> dict[str, Any]:
        """Run a command of the toolkit; its summary. Raises CalledProcessError."""
        out = arguments[arguments.index("--out") + 1]
        threads = ("--threads", str(self.threads)) if self.threads else ()
        common = ("--data_dir", str(self.cifar), "--trackers", "none") if command == "pretrain" else (
            "--data_dir", str(self.cifar))  # fmt: skip
        subprocess.run(
            [sys.executable, "-m", "sslortho", command, *common, *threads, *arguments], check=True
        )
        return json.loads((Path(out) / "summary.json").read_text())

    def judge(self, weights: Path) -> float:
        """kNN accuracy (%) of a backbone: one centre view of each of the test images, all training images."""
        out = weights.with_name(f"{weights.stem}-knn")
        shutil.rmtree(out, ignore_errors=True)  # of weights that had this name before
        summary = self.run(
            "knn_eval",
            "--data",
            "folder",
            "--crop_size",
            "32",
            "--backbone_from",
            str(weights),
            "--out",
            str(out),
        )
        return summary["knn_top1"]


def run_ours(task: Task, config: Path, seed: int) -> dict[str, Any]:
    """Train by a configuration file; seconds of loading, steps and optimizer, and kNN accuracy."""
    out, digest = task.work / f"ours-s{seed}", digest_config(config)
    if not (out / "summary.json").exists():  # a time is that of one piece
        shutil.rmtree(out, ignore_errors=True)
    arguments = ("--config", str(config), "--seed", str(seed), "--out", str(out))
    summary = task.run("pretrain", *arguments)
    images = summary["steps"] * summary["config"]["batch_size"]
    return {
        "seed": seed,
        "images": images,
        "seconds": images / summary["images_per_second"],
        "knn_top1": task.judge(out / "backbone.safetensors"),
        "settings": {**task.settings, "network": summary["config"]["backbone"]},
        "command": f"sslortho pretrain --config configs/{config.name} --data_dir D --seed {seed}",
        "config_digest": digest,
    }


def _create_barlow_twins(width: int) -> tuple[nn.Module, nn.Module]:
    from lightly.loss import BarlowTwinsLoss
    from lightly.models.modules.heads import ProjectionHead

    blocks = [(width, 2048, nn.BatchNorm1d(2048), nn.ReLU(inplace=True)), (2048, 2048, None, None)]
    return ProjectionHead(blocks), BarlowTwinsLoss()


def _create_simclr(width: int) -> tuple[nn.Module, nn.Module]:
    from lightly.loss import NTXentLoss
    from lightly.models.modules.heads import SimCLRProjectionHead

    return SimCLRProjectionHead(width, 512, 128), NTXentLoss()


HEADS: dict[str, Callable[[int], tuple[nn.Module, nn.Module]]] = {
    "barlow_twins": _create_barlow_twins,
    "simclr": _create_simclr,
}
"""Projector and loss of lightly's CIFAR-10 benchmark, for features of a width."""


def _create_views(method: str) -> Any:
    """A callable from an image to the two views of lightly's CIFAR-10 benchmark for a method."""
    from lightly.transforms.byol_transform import (
        BYOLTransform,
        BYOLView1Transform,
        BYOLView2Transform,
    )
    from lightly.transforms.simclr_transform import SimCLRTransform

    if method == "simclr":
        return SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)
    return BYOLTransform(
        view_1_transform=BYOLView1Transform(input_size=32, gaussian_blur=0.0),
        view_2_transform=BYOLView2Transform(input_size=32, gaussian_blur=0.0),
    )


def _draw_batches(task: Task, method: str, batch_size: int, workers: int) -> Iterator[list[Tensor]]:
    """Batches of two views without end, as lightly's benchmark makes them.

    Raises ValueError for fewer images than a batch.
    """
    views = _create_views(method)
    images = ImageFolder(str(task.cifar / "train"), transform=views)
    loader = DataLoader(
        images, batch_size, shuffle=True, drop_last=True, num_workers=workers,
        persistent_workers=workers > 0,
    )  # fmt: skip
    if len(loader) == 0:
        raise ValueError(
            f"batch_size={batch_size} is larger than the data ({len(images)} images); choose a smaller one"
        )
    while True:
        for batch, _ in loader:
            yield [view.contiguous(memory_format=torch.channels_last) for view in batch]


class LightlyTraining:
    """SGD of lightly's benchmark: momentum 0.9, decay 5e-4, a cosine; its rate is RATE.

    The cosine goes down step by step, not epoch by epoch as theirs, since runs are shorter than theirs. The
    network is in channels-last order, which theirs is not: it is faster on these processors, as for ours.
    """

    def __init__(self, task: Task, method: str, seed: int, lr: float) -> None:
        torch.manual_seed(seed)
        self.lr = lr
        self.backbone = create_backbone(task.network).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.backbone.eval()
        with torch.no_grad():
            width = self.backbone(torch.zeros(1, 3, 32, 32)).shape[1]
        self.backbone.train()
        self.head, self.criterion = HEADS[method](width)
        parameters = [*self.backbone.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=5e-4)

    def step(self, views: list[Tensor], place: float) -> None:
        """One step at a place from 0 to 1 of the schedule."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr / 2 * (1 + math.cos(math.pi * place))
        first, second = (self.head(self.backbone(view).flatten(1)) for view in views)
        self.optimizer.zero_grad()
        self.criterion(first, second).backward()
        self.optimizer.step()


def run_lightly(
    task: Task,
    method: str,
    seed: int,
    seconds: float,
    batch_size: int = BATCH,
    rate: float = RATE,
) -> dict[str, Any]:
    """Train by lightly's recipe for so many seconds, then judge.

    The number of steps is chosen before, by the pace of another network's first steps; the clock runs over
    the training's own steps and their loading.

    Args:
        task: shared by all entrants.
        method: "barlow_twins" or "simclr".
        seed: of weights and draws.
        seconds: that the steps shall take.
        batch_size: images of a step; theirs is BATCH.
        rate: for batches of BATCH; theirs is RATE.
    """
    if task.threads:
        torch.set_num_threads(task.threads)
    workers, lr = available_cores(), rate * batch_size / BATCH
    batches = _draw_batches(task, method, batch_size, workers)
    trial = LightlyTraining(task, method, seed, lr)
    for _ in range(WARM_UP):
        trial.step(next(batches), 0.0)
    began = time.perf_counter()
    for _ in range(TIMED):
        trial.step(next(batches), 0.0)
    steps = max(1, round(seconds * TIMED / (time.perf_counter() - began)))
    training = LightlyTraining(task, method, seed, lr)
    began = time.perf_counter()
    for step in range(steps):
        training.step(next(batches), step / steps)
    took = time.perf_counter() - began
    weights = task.work / f"lightly-{method}-{rate:g}-{round(seconds)}s-s{seed}.safetensors"
    task.work.mkdir(parents=True, exist_ok=True)
    mean, std = IMAGENET
    info = BackboneInfo(backbone=task.network, stem="stock", crop_size=32, mean=mean, std=std)
    write_backbone(training.backbone, weights, info)
    return {
        "seed": seed,
        "images": steps * batch_size,
        "seconds": took,
        "knn_top1": task.judge(weights),
        "settings": task.settings,
        "batch_size": batch_size,
        "workers": workers,
    }
