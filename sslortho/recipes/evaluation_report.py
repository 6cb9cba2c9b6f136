"""The end of an evaluation: pictures, report.md, summary.json."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sslortho.recipes.linear_eval.resolve import ClassifierTraining, Evaluation
from sslortho.data import ImageSet
from sslortho.evaluate import extract_features, feature_batches
from sslortho.evaluate.inspection import Looks, Scene, draw_looks, find_looks
from sslortho.runs.report import ReportFigure, ReportPicture, ReportTable, write_report
from sslortho.runs.provenance import provenance
from sslortho.train.records import write_summary

MEANINGS = {
    "top1": ("%", "test images whose class is the first guess"),
    "top5": ("%", "test images whose class is among the first five guesses"),
    "test_loss": ("", "mean cross-entropy of the test images"),
    "val_top1": ("%", "held-out training images whose class is the first guess"),
    "val_top5": ("%", "held-out training images whose class is among the first five guesses"),
    "val_loss": ("", "mean cross-entropy of the held-out training images"),
    "train_top1": ("%", "augmented training images whose class is the first guess, at the end"),
    "best_top1": ("%", "the best epoch on the test images: not a result, only for information"),
    "knn_top1": ("%", "test images whose class has most of the neighbours' votes"),
    "knn_top5": ("%", "test images whose class is among the five with most votes"),
    "loss": ("", "training loss at the end"),
    "images_per_second": ("", "in training"),
    "steps": ("", "optimizer steps"),
    "parameters": ("", "numbers that are trained"),
    "parameter_bytes": ("", "memory of the parameters, and of their gradients once more"),
    "optimizer_state_bytes": ("", "memory that the optimizer keeps beside them"),
}


LOOKED_AT = 20_000
"""Training images among which the pictures show neighbours: another pass over ImageNet is not worth
a picture."""


def look_at(run: ClassifierTraining) -> dict[str, Any]:
    """`looks` and `train` of `conclude`: test features, and neighbours among some training images.

    Every rank must call.
    """
    task, autocast = run.task, run.autocast
    features, labels = extract_features(task.backbone, run.test, autocast)
    with torch.no_grad():
        predictions = task.classifier(features).argmax(dim=1)
    bank = feature_batches(task.backbone, run.train_loader(LOOKED_AT), autocast)
    seed = run.config.seed
    looks = find_looks(features, labels, predictions, (batch for batch, _ in bank), seed)
    return {"looks": looks, "train": run.some(LOOKED_AT)}


def _draw(
    run: Evaluation, folder: Path, looks: Looks, train: ImageSet
) -> tuple[list[ReportPicture], list[ReportTable]]:
    data, info, seed = run.data, run.subject.info, run.config.seed
    some = len(train) < len(data.train)
    scene = Scene(
        show_test=lambda indices: run.images(data.test, indices),
        show_train=lambda indices: run.images(train, indices),
        train_labels=train.labels,
        mean=info.mean,
        std=info.std,
        remark=f", of {len(train)} training images" if some else "",
    )
    try:
        return draw_looks(folder, looks, data.classes, scene, seed)
    except (ValueError, OSError, RuntimeError) as error:  # the figures are worth more
        warnings.warn(f"the pictures could not be drawn: {error}", stacklevel=2)
        return [], []


def conclude(
    run: Evaluation,
    folder: Path,
    *,
    title: str,
    protocol: str,
    figures: dict[str, Any],
    details: dict[str, Any],
    started: float,
    looks: Looks | None = None,
    train: ImageSet | None = None,
    status: Mapping[str, Any] | None = None,
    pictures: Sequence[ReportPicture] = (),
    tables: Sequence[ReportTable] = (),
) -> dict[str, Any]:
    """Draw what there is to see, write report.md, and at last summary.json; returns the summary.

    Every rank must call; the main process writes.

    Args:
        run: the evaluation.
        folder: of the run.
        title: of the report.
        protocol: how the figures came about, in words.
        figures: the results, by the names of MEANINGS.
        details: what else is worth knowing: settings that were chosen on the way.
        started: time.time() of the script's start.
        looks: what the pictures are drawn from.
        status: what summary.json says beside the figures.
        train: the images among which `looks` has neighbours; by default all training images.
        pictures, tables: others for the report, in the folder already.
    """
    details = _complete(run, details)
    whence = provenance(run.accelerator, started)
    summary = {
        **figures,
        **(status or {}),
        "protocol": protocol,
        "weights_from": run.subject.origin,
        "details": details,
        **whence,
        "config": asdict(run.config),
    }
    if run.accelerator.is_main_process:
        drawn, more = _draw(run, folder, looks, train or run.data.train) if looks else ([], [])
        write_report(
            folder / "report.md",
            title=title,
            figures=[ReportFigure(n, value, *MEANINGS[n]) for n, value in figures.items()],
            settings={**_settings(run), **details},
            notes=[protocol, f"Weights: {run.subject.origin}"],
            pictures=[*pictures, *drawn],
            tables=[*more, *tables],
            command=whence["command"],
            versions=whence["versions"],
            hardware=whence["hardware"],
        )
        write_summary(folder / "summary.json", summary)
    run.accelerator.wait_for_everyone()
    return summary


def _complete(run: Evaluation, details: dict[str, Any]) -> dict[str, Any]:
    """With the sizes of the data, and how the backbone sees images."""
    return {
        **details,
        "classes": len(run.data.classes),
        "train_images": len(run.data.train),
        "test_images": len(run.data.test),
        **asdict(run.subject.info),
    }


def _settings(run: Evaluation) -> dict[str, Any]:
    """The options that have an effect."""
    idle = getattr(run.config, "without_effect", [])
    return {name: value for name, value in asdict(run.config).items() if name not in idle}
