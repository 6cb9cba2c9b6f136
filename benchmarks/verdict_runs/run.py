"""One run of the calibration, and its line of the file."""

import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sslortho
from sslortho.runs.provenance import git_commit, machine, versions
from sslortho.train.backward import NonFiniteError
from sslortho.train.records import read_metrics
from verdict_runs.breaks import Break, breaks_of, views_of
from verdict_runs.images import CHANGES, Images

CROP, BATCH, EPOCHS = 16, 64, 8

LR = {"simclr": 20.0, "lejepa": 20.0, "emp_ssl": 20.0}
"""Rates of Orthogonal-LARS, per 256 samples, that differ from the usual 6: by the grids of docs/paper.md, of
the last two the better one of 6 and 20 here."""

PROJECTORS = {"simclr": "128-64", "byol": "128-64", "moco_v2": "128-64", "dino": "128-64-256",
              "lejepa": "128-128-32", "emp_ssl": "128-128-64"}  # fmt: skip
"""Widths of the projectors that are not 128-128-128."""

OWN = {
    "moco_v2": {"queue": 256},
    "byol": {"teacher_momentum": 0.9},
    "dino": {"teacher_momentum": 0.9},
}
"""Options that suit 128 steps: moving averages of the papers take thousands."""

NO_RESULT = (
    "out",
    "data_dir",
    "test_data",
    "threads",
    "trackers",
    "announce",
    "debug",
    "rank_timeout",
)
"""Options that are of no account, or name a place on a machine."""


class TinyNet(nn.Module):
    """Three convolutions with batch norm, averaged over places: (batch, 3, h, w) to (batch, 64)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, stride in ((3, 24, 1), (24, 48, 2), (48, 64, 2)):
            layers += [
                nn.Conv2d(before, after, 3, stride, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).mean(dim=(2, 3))


@dataclass(frozen=True)
class Plan:
    """One run."""

    method: str
    data: str
    kind: str
    seed: int
    backbone: str = "tiny"
    epochs: int = EPOCHS

    @property
    def name(self) -> str:
        """Unique in the file."""
        length = "" if self.epochs == EPOCHS else f"/e{self.epochs}"
        return f"{self.method}/{self.data}/{self.kind}/{self.backbone}/s{self.seed}{length}"


def options_of(plan: Plan, broken: Break) -> dict[str, Any]:
    """Options of `sslortho.pretrain` but for images and folder."""
    from sslortho.methods.options import options_of_method

    biases = getattr(options_of_method(plan.method), "usual_lr_biases", 0.0048)
    return {
        "method": broken.method or plan.method,
        "projector": PROJECTORS.get(plan.method, "128-128-128"),
        "views": list(views_of(plan.method, plan.data, CROP, broken.still)),
        "crop_size": CROP,
        "batch_size": BATCH,
        "epochs": plan.epochs,
        "warmup_epochs": 1,
        "evaluate_every": 2,
        "log_every": 4,
        "lr": broken.rate * LR.get(plan.method, 6.0),
        "lr_biases": broken.rate * biases,
        "seed": plan.seed,
        "linear_probe": False,
        "mixed_precision": "no",
        "threads": 1,
        "trackers": "none",
        "announce": False,
        "checkpoint_every": plan.epochs,
        **OWN.get(plan.method, {}),
        **broken.options,
    }


def carry_out(plan: Plan, data: tuple[Images, Images]) -> dict[str, Any]:
    """Train; the line of the file."""
    broken = breaks_of(plan.method)[plan.kind]
    train, test = data
    if broken.images is not None:
        train = CHANGES[broken.images](train, plan.seed)
    folder = Path(tempfile.mkdtemp(prefix="verdict-"))
    began = time.monotonic()
    error, summary = None, {}
    torch.manual_seed(plan.seed)
    model: Any = TinyNet() if plan.backbone == "tiny" else plan.backbone
    try:
        summary = sslortho.pretrain(
            train, model, test_data=test, out=folder / "run", **options_of(plan, broken)
        ).summary
    except (NonFiniteError, ValueError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    records = read_metrics(folder / "run" / "metrics.jsonl")
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "name": plan.name,
        **vars(plan),
        "seconds": round(time.monotonic() - began, 1),
        "error": error,
        "commit": git_commit(),
        "machine": machine(),
        "versions": versions(),
        "summary": _keep(plan, summary, broken),
        "records": [_thin(record) for record in records],
    }


def _thin(record: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that say how a run went."""
    return {
        name: _short(value)
        for name, value in record.items()
        if name != "images_per_second" and not name.startswith("lr/")
    }


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _keep(plan: Plan, summary: Mapping[str, Any], broken: Break) -> dict[str, Any]:
    """Figures, numbers of images, and options; no places."""
    kept = {n: _short(v) for n, v in summary.items() if isinstance(v, int | float)}
    config = summary.get("config") or {}
    settings = {n: v for n, v in config.items() if n not in NO_RESULT and v is not None}
    if not settings:  # it did not get that far
        settings = {
            n: v for n, v in options_of(plan, broken).items() if n not in (*NO_RESULT, "views")
        }
    counts = {
        r: {"count": i["count"]} for r, i in summary.get("inputs", {}).items() if "count" in i
    }
    return {**kept, "inputs": counts, "config": {**settings, "method": plan.method}}
