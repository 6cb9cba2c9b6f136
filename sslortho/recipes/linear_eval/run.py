"""Linear evaluation or fine-tuning of a backbone, or the fast probe:
`accelerate launch scripts/linear_eval.py --backbone_from runs/x --data cifar10 --data_dir D`.

Writes one run folder; starting the same command on the same folder resumes.
"""

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sslortho.recipes.linear_eval.resolve import ClassifierTraining, Evaluation, backbone_rate, build_fast_probe, build_linear_evaluation, views_name
from sslortho.recipes.evaluation_report import conclude, look_at
from sslortho.recipes.linear_eval.options import LinearEvalOptions
from sslortho.runs.config_file import check_same_run, to_yaml
from sslortho.recipes.command_line import parse_config, user_errors
from sslortho.evaluate import (
    HELD_OUT,
    AccuracyCounts,
    LogisticRegression,
    Picture,
    Table,
    Selection,
    extract_features,
    inspect_features,
    local_features,
    select_l2,
)
from sslortho.models import write_backbone, write_classifier
from sslortho.train import FitResult, NonFiniteError, RankLostError
from sslortho.train.records import draw_curves, read_metrics
from sslortho.runs.folder import exit_after_signal, finished_summary, prepare_folder


def describe_training(config: LinearEvalOptions, crop_size: int) -> str:
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


def run_training(
    run: ClassifierTraining, config: LinearEvalOptions, folder: Path, started: float
) -> dict[str, Any]:
    """Train, with the test accuracy on the way; then the last epoch's figures, and the best's."""
    try:
        result = run.training.fit(folder, run.evaluate)
    except (NonFiniteError, RankLostError) as error:
        sys.exit(f"linear_eval.py: stopped: {error}")
    if result.stopped_by is not None:
        exit_after_signal(result.stopped_by, result.step, run.accelerator)
    task, info = run.task, run.subject.info
    if run.accelerator.is_main_process:
        write_classifier(task.classifier, folder / "classifier.safetensors")
        if not task.freeze_backbone:
            write_backbone(task.backbone, folder / "backbone.safetensors", info)
    return conclude(
        run,
        folder,
        title="Linear evaluation" if task.freeze_backbone else "Fine-tuning",
        protocol=describe_training(config, info.crop_size),
        details={},
        started=started,
        **_course(run, folder, result),
        **(look_at(run) if config.pictures else {}),
    )


def _course(run: ClassifierTraining, folder: Path, result: FitResult) -> dict[str, Any]:
    """Figures and pictures of the result, and of the way to it; for the main process to write."""
    evaluated = run.training.config.evaluate_every > 0  # then at the end of the last epoch too
    figures = {} if evaluated else run.evaluate(run.task)
    records = read_metrics(folder / "metrics.jsonl")
    seen = [record for record in records if "top1" in record] or [figures]
    if run.accelerator.is_main_process:
        draw_curves(folder / "curves.png", {run.training.config.optim: records})
    return {
        "figures": {
            **{name: seen[-1].get(name) for name in ("top1", "top5", "test_loss")},
            "best_top1": max(record.get("top1") or 0 for record in seen),
            "loss": result.loss,
            "images_per_second": result.images_per_second,
            "steps": result.step,
        },
        "pictures": [
            Picture(folder / "curves.png", "Training loss and test accuracy against steps."),
            Picture(folder / "views.png", "Training views of a few images."),
        ],
    }


def describe_probe(
    config: LinearEvalOptions, probe: LogisticRegression, selection: Selection | None
) -> str:
    """The protocol of the fast probe in words."""
    chosen = "as given"
    if selection is not None:
        share = 100 * (config.held_out or HELD_OUT)
        chosen = f"the best of {len(selection.trials)} on {share:g} % of the training images"
    end = "to its optimum" if probe.converged else f"stopped after {probe.iterations} iterations"
    return (
        f"Fast probe: logistic regression, by L-BFGS {end}, on standardised features of the "
        f"evaluation view that were extracted once; l2 {probe.l2:g}, {chosen}, then fitted to all of "
        "them. This is not the published linear evaluation, which trains by SGD on random crops."
    )


def run_fast_probe(
    run: Evaluation, config: LinearEvalOptions, folder: Path, started: float
) -> dict[str, Any]:
    """Features once, then logistic regression."""
    backbone, autocast, classes = run.subject.backbone, run.autocast, run.data.classes
    features, labels = local_features(backbone, run.train_loader(), autocast)
    test, truth = extract_features(backbone, run.test, autocast)
    l2, selection = config.l2, None
    if l2 is None:
        share = config.held_out or HELD_OUT
        selection = select_l2(
            features, labels, held_out=share, seed=config.seed, classes=len(classes)
        )
        l2 = selection.l2
    probe = LogisticRegression(features, labels, l2, classes=len(classes))
    counts = AccuracyCounts(logits=True)
    counts.add(probe.logits(test), truth)
    if run.accelerator.is_main_process:
        write_classifier(probe.as_linear(), folder / "classifier.safetensors")
    looks = None
    if config.pictures:
        looks = inspect_features(test, truth, probe.predict(test), features.split(512), config.seed)
    details = {"l2": l2, "iterations": probe.iterations, "converged": probe.converged}
    tables = []
    if selection is not None:
        details["l2_at_edge"] = selection.at_edge
        header = ("l2", "held-out top-1 (%)", "held-out loss", "converged")
        rows = [(t.l2, t.top1, t.loss, t.converged) for t in selection.trials]
        tables = [Table("Choice of l2", header, rows)]
    return conclude(
        run,
        folder,
        title="Fast probe",
        protocol=describe_probe(config, probe, selection),
        figures={**counts.percentages(), "test_loss": counts.mean_loss()},
        details=details,
        started=started,
        looks=looks,
        tables=tables,
    )


def tell(summary: dict[str, Any], folder: Path) -> None:
    """The final figures on the terminal."""
    print(f"{folder}: top-1 {summary['top1']:.2f} %   top-5 {summary['top5']:.2f} %")
    if "best_top1" in summary:
        print(f"  (best epoch on the test images: {summary['best_top1']:.2f} %; not a result)")
    print("  report.md, summary.json, classifier.safetensors")


def evaluate(config: LinearEvalOptions, folder: Path, started: float) -> None:
    """Build, run by the protocol asked for, tell."""
    fast = config.protocol == "lbfgs"
    run = build_fast_probe(config) if fast else build_linear_evaluation(config)
    accelerator = run.accelerator
    accelerator.print(run.subject.origin)
    if idle := config.without_effect:
        accelerator.print(f"no effect on protocol='lbfgs': {', '.join(idle)}", file=sys.stderr)
    views = None
    if isinstance(run, ClassifierTraining) and accelerator.is_main_process:
        views = next(iter(run.training.loader)).views
    prepare_folder(folder, accelerator, to_yaml(config), asdict(config), views)
    if isinstance(run, ClassifierTraining):
        summary = run_training(run, config, folder, started)
    else:
        summary = run_fast_probe(run, config, folder, started)
    if accelerator.is_main_process:
        tell(summary, folder)
    accelerator.end_training()


def main() -> None:
    started = time.time()
    config = parse_config(LinearEvalOptions)
    folder = config.run_folder
    with user_errors(config.debug):
        check_same_run(config, folder)
        if (summary := finished_summary(folder)) is not None:
            return tell(summary, folder)
        evaluate(config, folder, started)


if __name__ == "__main__":
    main()
