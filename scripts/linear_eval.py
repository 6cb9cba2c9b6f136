"""Linear evaluation or fine-tuning of a backbone, or the fast probe:
`accelerate launch scripts/linear_eval.py --backbone_from runs/x --data cifar10 --data_dir D`.

Writes one run folder; starting the same command on the same folder resumes.
"""

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslortho.build import (
    LinearEvaluation,
    backbone_rate,
    build_linear_evaluation,
    conclude,
    views_name,
)
from sslortho.config import LinearEvalConfig, check_same_run, parse_config, to_yaml, user_errors
from sslortho.evaluate import (
    LogisticRegression,
    ReportPicture,
    ReportTable,
    Selection,
    evaluate_classifier,
    local_features,
    select_l2,
)
from sslortho.models import write_backbone, write_classifier
from sslortho.train import FitResult, NonFiniteError
from sslortho.train.reporting import draw_curves, read_metrics
from sslortho.train.run_folder import exit_after_signal, prepare_folder, read_summary

HELD_OUT = 0.1
"""Share of the training images that the fast probe's l2 is chosen on."""


def describe_training(config: LinearEvalConfig, crop_size: int) -> str:
    """The protocol of a training run in words."""
    if config.weights == "freeze":
        what, rates = "Linear classifier on the frozen backbone", f"rate {config.lr:g}"
    else:
        what = "Fine-tuning of backbone and classifier"
        rates = f"rates {backbone_rate(config):g} and {config.lr:g}"
    return (
        f"{what}: {config.optim}, {config.epochs} epochs in batches of {config.batch_size}, {rates} "
        f"per 256 images with a cosine to 0, weight decay {config.weight_decay:g}, "
        f"{views_name(config)} views of {crop_size} pixels. The result is that of the last epoch."
    )


def train(run: LinearEvaluation, folder: Path) -> FitResult:
    """The training loop, with the test accuracy on the way."""
    assert run.training is not None
    try:
        with user_errors(run.config.debug):  # features that are not finite, say
            return run.training.fit(folder, run.evaluate)
    except NonFiniteError as error:
        sys.exit(f"linear_eval.py: stopped: {error}")


def conclude_training(
    run: LinearEvaluation, folder: Path, result: FitResult, started: float
) -> dict[str, Any]:
    """Figures of the trained classifier: the last epoch's, and the best only beside them."""
    task, info = run.task, run.subject.info
    figures = run.evaluate(task)
    records = read_metrics(folder / "metrics.jsonl")
    seen = [float(record["top1"] or 0) for record in records if "top1" in record]
    if run.accelerator.is_main_process:
        draw_curves(folder / "curves.png", {run.config.optim: records})
        write_classifier(task.classifier, folder / "classifier.safetensors")
        if not task.freeze_backbone:
            write_backbone(task.backbone, folder / "backbone.safetensors", info)
    return conclude(
        run,
        folder,
        title="Linear evaluation" if task.freeze_backbone else "Fine-tuning",
        protocol=describe_training(run.config, info.crop_size),
        figures={
            **figures,
            "best_top1": max([*seen, figures["top1"]]),
            "loss": result.loss,
            "images_per_second": result.images_per_second,
            "steps": result.step,
        },
        details={},
        backbone=task.backbone,
        predict=lambda features: task.classifier(features).argmax(dim=1),
        started=started,
        pictures=[
            ReportPicture(folder / "curves.png", "Training loss and test accuracy against steps."),
            ReportPicture(folder / "views.png", "Training views of a few images."),
        ],
    )


def describe_probe(config: LinearEvalConfig, l2: float, selection: Selection | None) -> str:
    """The protocol of the fast probe in words."""
    chosen = "as given"
    if selection is not None:
        share = 100 * (config.held_out or HELD_OUT)
        chosen = f"the best of {len(selection.trials)} on {share:g} % of the training images"
    return (
        "Fast probe: logistic regression, by L-BFGS to its optimum, on standardised features of the "
        f"evaluation view that were extracted once; l2 {l2:g}, {chosen}, then fitted to all of them. "
        "This is not the published linear evaluation, which trains by SGD on random crops."
    )


def run_fast_probe(run: LinearEvaluation, folder: Path, started: float) -> dict[str, Any]:
    """Features once, then logistic regression."""
    config, classes = run.config, len(run.data.classes)
    backbone = run.subject.backbone.eval()
    autocast = run.accelerator.autocast
    features, labels = local_features(backbone, run.train, autocast)
    l2, selection = config.l2, None
    if l2 is None:
        share = config.held_out or HELD_OUT
        selection = select_l2(features, labels, held_out=share, seed=config.seed, classes=classes)
        l2 = selection.l2
    probe = LogisticRegression(features, labels, l2, classes=classes)

    def classify(images: Tensor) -> Tensor:
        with autocast():
            features = backbone(images)
        return probe.logits(features.float())

    figures = evaluate_classifier(classify, run.test)
    if run.accelerator.is_main_process:
        write_classifier(probe.as_linear(), folder / "classifier.safetensors")
    header = ("l2", "held-out top-1 (%)", "held-out loss")
    rows = [] if selection is None else [(t.l2, t.top1, t.loss) for t in selection.trials]
    return conclude(
        run,
        folder,
        title="Fast probe",
        protocol=describe_probe(config, l2, selection),
        figures=figures,
        details={"l2": l2},
        backbone=backbone,
        predict=probe.predict,
        started=started,
        tables=[ReportTable("Choice of l2", header, rows)] if rows else (),
    )


def tell(summary: dict[str, Any], folder: Path) -> None:
    """The final figures on the terminal."""
    print(f"{folder}: {summary['weights_from']}")
    print(f"  top-1 {summary['top1']:.2f} %   top-5 {summary['top5']:.2f} %")
    if "best_top1" in summary:
        print(f"  (best epoch on the test images: {summary['best_top1']:.2f} %; not a result)")
    print("  report.md, summary.json, classifier.safetensors")


def main() -> None:
    started = time.time()
    config = parse_config(LinearEvalConfig)
    folder = config.run_folder
    with user_errors(config.debug):
        check_same_run(config, folder / "config.yaml")
        if (summary := read_summary(folder)) is not None:
            print("this run is finished already; another --out starts a new one")
            return tell(summary, folder)
        run = build_linear_evaluation(config)
    accelerator, training = run.accelerator, run.training
    views = None
    if training is not None and accelerator.is_main_process:
        views = next(iter(training.loader)).views
    prepare_folder(folder, accelerator, to_yaml(config), asdict(config), views)
    if training is None:
        with user_errors(config.debug), torch.no_grad():
            summary = run_fast_probe(run, folder, started)
    else:
        result = train(run, folder)
        if result.stopped_by is not None:
            exit_after_signal(result.stopped_by, result.step, accelerator)
        with torch.no_grad():
            summary = conclude_training(run, folder, result, started)
    if accelerator.is_main_process:
        tell(summary, folder)
    accelerator.end_training()


if __name__ == "__main__":
    main()
