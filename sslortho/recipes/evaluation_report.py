"""The end of an evaluation: pictures, report.md, summary.json."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from sslortho.data import ImageSet
from sslortho.evaluate import (
    InspectedImages,
    Inspection,
    Picture,
    Table,
    draw_inspection,
    extract_features,
    feature_batches,
    inspect_features,
)
from sslortho.recipes.evaluation import ClassifierTraining, Evaluation
from sslortho.runs.folder import RunFolder
from sslortho.runs.provenance import Session, provenance
from sslortho.runs.run_report import ReportFigure, write_report
from sslortho.train.on_main import on_main

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
    "crops_knn_top1": ("%", "the same, with the mean of features over random crops"),
    "crops_knn_top5": ("%", "the same of the five with most votes"),
    "initial_knn_top1": ("%", "the same with the initial weights, before training"),
    "loss": ("", "training loss at the end"),
    "images_per_second": ("", "in training"),
    "peak_memory_gib": ("GiB", "most memory in use on the GPU in training"),
    "steps": ("", "optimizer steps"),
    "parameters": ("", "numbers that are trained"),
    "parameter_bytes": ("", "memory of the parameters, and of their gradients once more"),
    "optimizer_state_bytes": ("", "memory that the optimizer keeps beside them"),
}
"""Name of a figure to its unit and its meaning in a report."""

INSPECTED = 20_000
"""Number of training images among which the pictures show neighbours: another pass over ImageNet is
not worth a picture."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that a report says about an evaluation beside its options."""

    title: str
    """Headline of the report."""
    protocol: str
    """How the figures were measured, in words."""
    figures: Mapping[str, Any]
    """Results, by the names of MEANINGS."""
    status: Mapping[str, Any] = field(default_factory=dict)
    """Entries of summary.json beside the figures."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Settings that were chosen during the run."""
    ignored: Sequence[str] = ()
    """Names of options that had no effect; the report leaves them out."""
    inspection: Inspection | None = None
    """Inspection that the pictures are drawn from; None for no pictures."""
    neighbours: ImageSet | None = None
    """Images among which the inspection has its neighbours. Default: all training images."""
    pictures: Sequence[Picture] = ()
    """Others for the report, in the folder already."""
    tables: Sequence[Table] = ()
    """Others for the report."""


def describe_accuracy(summary: Mapping[str, Any], kind: str = "") -> str:
    """Accuracies of a summary in words: "top-1 90.00 %   top-5 99.00 %", or the first alone.

    Args:
        summary: figures by name.
        kind: beginning of their names, such as "knn_".
    """
    names = {f"{kind}top1": "top-1", f"{kind}top5": "top-5"}
    found = [f"{name} {summary[key]:.2f} %" for key, name in names.items() if key in summary]
    return "   ".join(found)


def inspect_run(run: ClassifierTraining) -> tuple[Inspection, ImageSet]:
    """Inspection of the test features, and the training images among which neighbours are sought.

    Every rank must call.
    """
    task, autocast = run.task, run.autocast
    features, labels = extract_features(task.backbone, run.test, autocast)
    with torch.no_grad():
        predictions = task.classifier(features).argmax(dim=1)
    images = run.some_training_images(INSPECTED)
    batches = feature_batches(task.backbone, run.evaluation_loader(images), autocast)
    bank = (batch for batch, _ in batches)
    seed = run.options.seed
    return inspect_features(features, labels, predictions, bank, seed), images


def _draw(
    run: Evaluation, folder: RunFolder, results: Results
) -> tuple[list[Picture], list[Table]]:
    """Draw the inspection; nothing if there is none, or if that fails."""
    if results.inspection is None:
        return [], []
    data, info = run.data, run.subject.info
    train = results.neighbours or data.train
    images = InspectedImages(
        show_test=lambda indices: run.evaluation_views(data.test, indices),
        show_train=lambda indices: run.evaluation_views(train, indices),
        train_labels=train.labels,
        mean=info.mean,
        std=info.std,
        remark=f", of {len(train)} training images" if len(train) < len(data.train) else "",
    )
    seed = run.options.seed
    try:
        return draw_inspection(folder.path, results.inspection, data.classes, images, seed)
    except (ValueError, OSError, RuntimeError) as error:  # the figures are worth more
        warnings.warn(f"the pictures could not be drawn: {error}", stacklevel=2)
        return [], []


def _write_report(
    run: Evaluation, folder: RunFolder, results: Results, details: Mapping[str, Any],
    origin: Mapping[str, Any],
) -> None:  # fmt: skip
    pictures, tables = _draw(run, folder, results)
    options = run.options.values()
    settings = {name: value for name, value in options.items() if name not in results.ignored}
    write_report(
        folder.report,
        title=results.title,
        figures=[
            ReportFigure(n, value, *MEANINGS[n])
            for n, value in results.figures.items()
            if n in MEANINGS
        ],
        settings={**settings, **details},
        notes=[results.protocol, f"Weights: {run.subject.origin}"],
        pictures=[*results.pictures, *pictures],
        tables=[*tables, *results.tables],
        command=origin["command"],
        versions=origin["versions"],
        hardware=origin["hardware"],
    )


def write_results(
    run: Evaluation,
    folder: RunFolder,
    results: Results,
    session: Session,
    inputs: Mapping[str, Any],
) -> dict[str, Any]:
    """Draw the pictures, write report.md, and at last summary.json; the summary.

    Every rank must call; the main process writes.

    Args:
        run: the evaluation.
        folder: of the run.
        results: figures and words.
        session: command and start.
        inputs: entries of summary.json that say which images and weights these were.
    """
    details = {
        **results.details,
        "classes": len(run.data.classes),
        "train_images": len(run.data.train),
        "test_images": 0 if run.data.tested is None else len(run.data.tested),
        **asdict(run.subject.info),
    }
    origin = provenance(run.accelerator, session)
    summary = {
        **results.figures,
        **results.status,
        "protocol": results.protocol,
        "weights_from": run.subject.origin,
        "details": details,
        **origin,
        **inputs,
        "config": run.options.values(),
    }

    def write() -> None:
        _write_report(run, folder, results, details, origin)
        folder.write_summary(summary)

    on_main(run.accelerator, write)
    return summary
