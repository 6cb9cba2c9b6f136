"""Trainings on CIFAR-10: Barlow Twins with LARS and Orthogonal-LARS, and rows of the paper's table 3."""

import json
from pathlib import Path
from typing import Any

from sslortho.paper.reproduce import main as reproduce
from sslortho.train.records import read_metrics

from .context import Context, PartialError, SkippedError, StoppedError

IMAGES = 50_000
"""Training images of CIFAR-10."""

MOST_EPOCHS, FEWEST_EPOCHS = 200, 3
"""Epochs of configs/paper/cifar10_resnet18.yaml, and fewest that are worth it."""

UNMEASURED_EPOCHS = 10
"""Epochs where no rate was measured."""

SHARE = 0.85
"""Share of the time for epochs; the rest is for starting, evaluations and probes."""

JOBS = 3
"""Trainings that share the GPU: one alone leaves most of it idle."""


def choose_epochs(seconds: float, rates: dict[str, float]) -> int:
    """Epochs of each of three trainings that fit into so many seconds.

    Counted as if one ran after another. They run at once (`JOBS`), and end earlier if they share the
    GPU well.

    Args:
        seconds: for all of them.
        rates: images a second of "lars" and "orth_lars"; the third has the second's.
    """
    if {"lars", "orth_lars"} - rates.keys():
        return UNMEASURED_EPOCHS
    epoch = IMAGES / rates["lars"] + 2 * IMAGES / rates["orth_lars"]
    return max(FEWEST_EPOCHS, min(MOST_EPOCHS, int(SHARE * seconds / epoch)))


def pretrain(context: Context) -> dict[str, Any]:
    """Train with every optimizer for as many epochs as fit; decided once, kept in the work folder."""
    out = context.work / "pretrain"
    plan = out / "epochs.json"
    if not plan.exists():
        found = {o: context.results.read(f"rates.resnet18-{o}") for o in ("lars", "orth_lars")}
        rates = {o: r["figures"]["images_per_second"] for o, r in found.items() if "figures" in r}
        epochs = 1 if context.small else choose_epochs(60 * context.options.train_minutes, rates)
        out.mkdir(parents=True, exist_ok=True)
        plan.write_text(json.dumps(epochs))
    epochs = json.loads(plan.read_text())
    row = "resnet20" if context.small else "resnet18"
    only = [row, "lars", "orth_lars_before"] if context.small else [row]  # two minutes in all
    code = _reproduce(context, "cifar10_resnet18", out, only, epochs)
    names = ("loss", "knn_top1", "linear_top1", "images_per_second")
    return _check(code, {"epochs": epochs, "row": row, "runs": _read_runs(out, names)})


def train_table3(context: Context) -> dict[str, Any]:
    """Train rows of the paper's table 3 with the paper's settings, one seed."""
    rows = ["basic_cnn", "orth_sgd"] if context.small else ["basic_cnn", "resnet20", "resnet18"]
    epochs = 1 if context.small else 100
    out = context.work / "table3"
    code = _reproduce(context, "table3", out, rows, epochs)
    names = ("top1", "test_loss", "loss", "images_per_second")
    return _check(code, {"epochs": epochs, "runs": _read_runs(out, names)})


def _check(code: int, figures: dict[str, Any]) -> dict[str, Any]:
    """The figures. Raises PartialError with those that there are if a run failed."""
    if code:
        raise PartialError(f"not every run ended: exit code {code} of reproduce", figures)
    return figures


def _reproduce(context: Context, name: str, out: Path, rows: list[str], epochs: int) -> int:
    """Run an experiment, or go on with it; the exit code.

    Raises SkippedError without images, StoppedError if it was asked to stop.
    """
    arguments = [name, "--out", str(out), "--seeds", "1", "--only", ",".join(rows)]
    arguments += ["--epochs", str(epochs)]
    if context.small:
        arguments += ["--data", "digits", "--subset", "64", "--jobs", "1", "--threads", "1"]
    elif context.options.cifar is None:
        raise SkippedError("no images to train on; give --cifar")
    else:
        arguments += ["--data", "folder", "--data_dir", context.options.cifar]
        arguments += ["--jobs", str(JOBS)]
    code = reproduce(arguments, "gpu_proof.py")
    if code > 128:
        raise StoppedError
    return code


def _read_runs(out: Path, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Final figures, accuracy on the way and settings of each finished run, by its name."""
    found = {}
    for folder in sorted((out / "runs").glob("*")):
        if not (folder / "summary.json").exists():
            continue
        summary = json.loads((folder / "summary.json").read_text())
        records = read_metrics(folder / "metrics.jsonl")
        way = [
            {n: r[n] for n in ("step", "epoch", "knn_top1", "accuracy", "loss") if n in r}
            for r in records
            if "knn_top1" in r or "accuracy" in r
        ]
        settings = ("optim", "lr", "momentum", "orth_momentum", "batch_size", "mixed_precision")
        found[folder.name] = {
            **{name: summary[name] for name in names if name in summary},
            **{f"setting_{n}": summary["config"].get(n) for n in settings},
            "diverged": bool(summary.get("diverged")),
            "way": way,
        }
    return found
