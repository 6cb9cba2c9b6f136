"""The end of an evaluation: pictures, report.md, summary.json."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sslortho.build.evaluation import Evaluation
from sslortho.evaluate.looking import Scene, draw_looks, gather_looks
from sslortho.evaluate.report import ReportPicture, ReportTable, write_report
from sslortho.train.reporting import write_summary
from sslortho.train.run_folder import provenance

Predict = Callable[[Tensor], Tensor]
"""Features of the test images (n, dim) to a class for each, int64 (n,)."""

MEANINGS = {
    "top1": ("%", "test images whose class is the first guess"),
    "top5": ("%", "test images whose class is among the first five guesses"),
    "test_loss": ("", "mean cross-entropy of the test images"),
    "best_top1": ("%", "the best epoch on the test images: not a result, only for information"),
    "knn_top1": ("%", "test images whose class has most of the neighbours' votes"),
    "knn_top5": ("%", "test images whose class is among the five with most votes"),
    "loss": ("", "training loss at the end"),
    "images_per_second": ("", "in training"),
    "steps": ("", "optimizer steps"),
}


def _draw(
    run: Evaluation, folder: Path, backbone: nn.Module, predict: Predict
) -> tuple[list[ReportPicture], list[ReportTable]]:
    """Pictures by the main process, of features that all ranks gather."""
    data, info, seed = run.data, run.subject.info, run.config.seed
    looks = gather_looks(backbone, run.train, run.test, seed)
    if not run.accelerator.is_main_process:
        return [], []
    scene = Scene(
        show_test=lambda indices: run.images(data.test, indices),
        show_train=lambda indices: run.images(data.train, indices),
        train_labels=data.train.labels,
        mean=info.mean,
        std=info.std,
    )
    return draw_looks(folder, looks, predict(looks.features), data.classes, scene, seed)


def conclude(
    run: Evaluation,
    folder: Path,
    *,
    title: str,
    protocol: str,
    figures: dict[str, Any],
    details: dict[str, Any],
    backbone: nn.Module,
    predict: Predict,
    started: float,
    pictures: Sequence[ReportPicture] = (),
    tables: Sequence[ReportTable] = (),
) -> dict[str, Any]:
    """Draw what there is to see, write report.md, and at last summary.json; returns the summary.

    Every rank must call.

    Args:
        run: the evaluation.
        folder: of the run.
        title: of the report.
        protocol: how the figures came about, in words.
        figures: the results, by the names of MEANINGS.
        details: what else is worth knowing: settings that were chosen on the way.
        backbone: as evaluated; fine-tuned, for instance.
        predict: see `Predict`.
        started: time.time() of the script's start.
        pictures, tables: others for the report, in the folder already.
    """
    config, data, info = run.config, run.data, run.subject.info
    details = {
        **details,
        "classes": len(data.classes),
        "train_images": len(data.train),
        "test_images": len(data.test),
        **asdict(info),
    }
    drawn, more = _draw(run, folder, backbone, predict) if config.pictures else ([], [])
    whence = provenance(run.accelerator, started)
    summary = {
        **figures,
        "protocol": protocol,
        "weights_from": run.subject.origin,
        "details": details,
        **whence,
        "config": asdict(config),
    }
    if run.accelerator.is_main_process:
        write_report(
            folder / "report.md",
            title=title,
            figures=[(name, value, *MEANINGS[name]) for name, value in figures.items()],
            settings={**asdict(config), **details},
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
