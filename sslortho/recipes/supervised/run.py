"""Supervised classification from scratch:
`accelerate launch scripts/supervised.py --data cifar10 --data_dir D --backbone resnet20 --optim orth_sgd`.

Writes one run folder; starting the same command on the same folder resumes.
"""

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sslortho.recipes.supervised.resolve import Supervised, build_supervised
from sslortho.recipes.evaluation_report import conclude, look_at
from sslortho.recipes.supervised.options import SupervisedOptions
from sslortho.runs.config_file import check_same_run, to_yaml
from sslortho.recipes.command_line import parse_config, user_errors
from sslortho.evaluate import NonFiniteScoresError, Picture
from sslortho.models import write_backbone, write_classifier
from sslortho.optim.monitor import state_bytes
from sslortho.train import NonFiniteError, RankLostError
from sslortho.train.records import Record, draw_curves, read_metrics
from sslortho.runs.folder import exit_after_signal, finished_summary, prepare_folder

EVALUATED = ("top1", "top5", "test_loss", "val_top1", "val_top5", "val_loss")


def describe(run: Supervised, config: SupervisedOptions) -> str:
    """The protocol in words."""
    defaults = run.training.optimizer.defaults
    inertia = "".join(
        f", {name} {defaults[name]}" for name in ("momentum", "betas") if name in defaults
    )
    decay = (
        f"weight decay {config.weight_decay:g} (biases and norms {config.weight_decay_biases:g})"
    )
    held_out = ""
    if config.validation is not None:
        held_out = f" {100 * config.validation:g} % of the training images were held out."
    return (
        f"{config.backbone} ({run.subject.info.stem} stem) from scratch: {config.optim}, {config.epochs} "
        f"epochs in batches of {config.batch_size}, rate {config.lr:g} ({config.schedule}){inertia}, {decay}, "
        f"{run.view} views of {run.subject.info.crop_size} pixels.{held_out} The result is that of the "
        "last epoch."
    )


def train(run: Supervised, config: SupervisedOptions, folder: Path) -> dict[str, Any]:
    """The training loop, and what the last epoch's network is worth. Exits if asked to stop.

    Raises NonFiniteError or NonFiniteScoresError if it diverges.
    """
    result = run.training.fit(folder, run.evaluate_on_the_way)
    if result.stopped_by is not None:
        exit_after_signal(result.stopped_by, result.step, run.accelerator)
    figures = measure(run, read_metrics(folder / "metrics.jsonl"), config)
    return {**figures, "images_per_second": result.images_per_second}


def measure(run: Supervised, records: list[Record], config: SupervisedOptions) -> dict[str, Any]:
    """Figures of the trained network: those of the last epoch, and of the test images."""
    figures: dict[str, Any] = {}
    if config.evaluate_every:  # then at the end of the last epoch too
        figures = {k: v for r in records for k, v in r.items() if k in EVALUATED}
    else:
        figures = run.evaluate_on_the_way(run.task)
    if config.validation is not None and config.test:
        figures |= run.evaluate(run.task)
    return {name: figures[name] for name in EVALUATED if name in figures}


def measure_diverged(config: SupervisedOptions) -> dict[str, Any]:
    """The same of one that is not finite: none has a value."""
    names = EVALUATED[3:] if config.validation is not None else ()
    return dict.fromkeys((*(EVALUATED[:3] if config.test else ()), *names, "images_per_second"))


def _last(records: list[Record], name: str) -> Any:
    return next((r[name] for r in reversed(records) if r.get(name) is not None), None)


def describe_size(run: Supervised) -> dict[str, int]:
    """The network's size, and what the optimizer keeps beside it."""
    parameters = [p for p in run.task.parameters() if p.requires_grad]
    return {
        "parameters": sum(p.numel() for p in parameters),
        "parameter_bytes": sum(p.numel() * p.element_size() for p in parameters),
        "optimizer_state_bytes": state_bytes(run.training.optimizer),
    }


def finish(
    run: Supervised,
    config: SupervisedOptions,
    folder: Path,
    measured: dict[str, Any] | Exception,
    started: float,
) -> dict[str, Any]:
    """Pictures, weights, report; `measured` is the error if training diverged."""
    records = read_metrics(folder / "metrics.jsonl")
    diverged, protocol = isinstance(measured, Exception), describe(run, config)
    if run.accelerator.is_main_process:
        draw_curves(folder / "curves.png", {config.optim: records})
        if not diverged:
            write_classifier(run.task.classifier, folder / "classifier.safetensors")
            write_backbone(run.task.backbone, folder / "backbone.safetensors", run.subject.info)
    figures = {
        **(measure_diverged(config) if isinstance(measured, Exception) else measured),
        **{name: _last(records, name) for name in ("loss", "train_top1")},
        "steps": _last(records, "step") or 0,
        **describe_size(run),
    }
    return conclude(
        run,
        folder,
        title="Supervised classification",
        protocol=f"{protocol} It diverged: {measured}" if diverged else protocol,
        figures=figures,
        details={"view": run.view},
        started=started,
        status={"diverged": diverged},
        pictures=[
            Picture(folder / "curves.png", "Training loss and accuracy against steps."),
            Picture(folder / "views.png", "Training views of a few images."),
        ],
        **(look_at(run) if config.pictures and config.test and not diverged else {}),
    )


def tell(summary: dict[str, Any], folder: Path) -> None:
    """The final figures on the terminal."""
    if summary["diverged"]:
        print(
            f"{folder}: diverged after {summary['steps']} steps; report.md and summary.json say how"
        )
        return
    for kind, name in (("", "test"), ("val_", "held out")):
        if f"{kind}top1" in summary:
            loss = summary["val_loss" if kind else "test_loss"]
            top1, top5 = summary[f"{kind}top1"], summary[f"{kind}top5"]
            print(f"{folder}: {name}: top-1 {top1:.2f} %   top-5 {top5:.2f} %   loss {loss:.4f}")
    print("  report.md, summary.json, curves.png, backbone.safetensors, classifier.safetensors")


def supervise(config: SupervisedOptions, folder: Path, started: float) -> dict[str, Any]:
    """Build, train, measure; the summary, told by the main process."""
    run = build_supervised(config)
    accelerator = run.accelerator
    views = next(iter(run.training.loader)).views if accelerator.is_main_process else None
    prepare_folder(folder, accelerator, to_yaml(config), asdict(config), views)
    measured: dict[str, Any] | Exception
    try:
        measured = train(run, config, folder)
    except (NonFiniteError, NonFiniteScoresError) as error:
        measured = error
    except RankLostError as error:
        sys.exit(f"supervised.py: stopped: {error}")
    summary = finish(run, config, folder, measured, started)
    if accelerator.is_main_process:
        tell(summary, folder)
    accelerator.end_training()
    return summary


def main() -> None:
    started = time.time()
    config = parse_config(SupervisedOptions)
    folder = config.run_folder
    with user_errors(config.debug):
        check_same_run(config, folder)
        summary = finished_summary(folder)
        if summary is None:
            summary = supervise(config, folder, started)
        else:
            tell(summary, folder)
    if summary["diverged"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
