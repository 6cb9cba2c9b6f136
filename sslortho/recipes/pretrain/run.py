"""Self-supervised pretraining: `accelerate launch scripts/pretrain.py --optim orth_lars`.

Writes one run folder; starting the same command on the same folder resumes.
"""

import math
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sslortho.recipes.pretrain.resolve import Pretraining, backbone_info, build_pretraining
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.runs.config_file import check_same_run, to_yaml
from sslortho.recipes.command_line import parse_config, user_errors
from sslortho.models import write_backbone
from sslortho.methods import Task
from sslortho.train import FitResult, NonFiniteError, RankLostError
from sslortho.runs.provenance import provenance
from sslortho.train.records import draw_curves, read_metrics, write_summary
from sslortho.runs.folder import exit_after_signal, finished_summary, prepare_folder


def train(run: Pretraining, folder: Path) -> FitResult:
    """The training loop, with kNN on the way."""

    def evaluate(task: Task) -> dict[str, float]:
        return run.evaluation.online(task.backbone)

    try:
        return run.fit(folder, evaluate if run.evaluation.test is not None else None)
    except (NonFiniteError, RankLostError) as error:
        sys.exit(f"pretrain.py: stopped: {error}")


def finish(run: Pretraining, folder: Path, result: FitResult, started: float) -> dict[str, Any]:
    """Final figures, pictures and weights."""
    backbone = run.task.backbone
    if run.accelerator.is_main_process:  # first what cannot fail
        write_backbone(backbone, folder / "backbone.safetensors", backbone_info(run.config))
        records = read_metrics(folder / "metrics.jsonl", {"loss", "knn_top1"})
        draw_curves(folder / "curves.png", {run.config.optim: records})
    figures = run.evaluation.final(backbone)
    before = run.evaluation.final(run.untrained_backbone())
    summary: dict[str, Any] = {
        "loss": result.loss,
        **figures,
        **{f"untrained_{name}": value for name, value in before.items()},
        "images_per_second": result.images_per_second,
        "steps": result.step,
        **provenance(run.accelerator, started),
        "config": asdict(run.config),
    }
    if run.accelerator.is_main_process:
        write_summary(folder / "summary.json", summary)
    return summary


def tell(summary: dict[str, Any], folder: Path) -> None:
    """The final figures on the terminal."""
    loss = math.nan if summary["loss"] is None else summary["loss"]
    print(f"{folder}: loss {loss:.4g} after {summary['steps']} steps")
    names = {"knn_top1": "kNN top-1 (%)", "linear_top1": "linear top-1 (%)",
             "rankme": "RankMe", "feature_std": "feature std"}  # fmt: skip
    for name, label in names.items():
        if name in summary:
            before = summary[f"untrained_{name}"]
            print(f"  {label:17} {summary[name]:8.2f}   untrained {before:8.2f}")
    print("  views.png, curves.png, metrics.jsonl, summary.json, backbone.safetensors")


def pretrain(config: PretrainOptions, folder: Path, started: float) -> None:
    """Build, train, measure, tell."""
    run = build_pretraining(config)
    views = next(iter(run.loader)).views if run.accelerator.is_main_process else None
    prepare_folder(folder, run.accelerator, to_yaml(config), asdict(config), views)
    result = train(run, folder)
    if result.stopped_by is not None:
        exit_after_signal(result.stopped_by, result.step, run.accelerator)
    summary = finish(run, folder, result, started)
    if run.accelerator.is_main_process:
        tell(summary, folder)
    run.accelerator.end_training()


def main() -> None:
    started = time.time()
    config = parse_config(PretrainOptions)
    folder = config.run_folder
    with user_errors(config.debug):
        check_same_run(config, folder)
        if (summary := finished_summary(folder)) is not None:
            return tell(summary, folder)
        pretrain(config, folder, started)


if __name__ == "__main__":
    main()
