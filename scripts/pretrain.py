"""Self-supervised pretraining: `accelerate launch scripts/pretrain.py --optim orth_lars`.

Writes one run folder; starting the same command on the same folder resumes.
"""

import json
import math
import shlex
import signal
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sslortho.build import Pretraining, build_pretraining, plain_values
from sslortho.config import PretrainConfig, check_same_run, parse_config, to_yaml
from sslortho.train import (
    CheckpointFolder,
    FitResult,
    NonFiniteError,
    Reporter,
    export_backbone,
    fit,
    write_atomically,
)
from sslortho.train.reporting import (
    draw_curves,
    draw_views,
    hardware,
    read_metrics,
    versions,
    write_summary,
)


def prepare_folder(run: Pretraining, folder: Path) -> None:
    """config.yaml, views.png and the trackers, before the first step."""
    if run.accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        text = to_yaml(run.config)
        write_atomically(folder / "config.yaml", lambda file: file.write(text.encode()))
        draw_views(folder / "views.png", next(iter(run.loader)).views)
    run.accelerator.wait_for_everyone()
    plain = {k: v for k, v in plain_values(run.config).items() if v is not None}
    run.accelerator.init_trackers("sslortho", config=plain)


def train(run: Pretraining, folder: Path) -> FitResult:
    """The training loop, with the run's folder around it."""
    reporter = Reporter(folder, run.accelerator, run.total_steps)
    try:
        return fit(
            run.task,
            run.optimizer,
            run.loader,
            accelerator=run.accelerator,
            schedule=run.schedule,
            options=run.options,
            reporter=reporter,
            checkpoints=CheckpointFolder(folder / "checkpoints", run.config.keep_last),
            config=plain_values(run.config),
            evaluate=run.evaluation.online if run.evaluation.test is not None else None,
        )
    finally:
        reporter.close()


def finish(run: Pretraining, folder: Path, result: FitResult, started: float) -> dict[str, Any]:
    """Final figures, pictures and weights."""
    if run.accelerator.is_main_process:  # first what cannot fail
        export_backbone(run.task.backbone, folder / "backbone.safetensors")
        records = read_metrics(folder / "metrics.jsonl")
        draw_curves(folder / "curves.png", {run.config.optim: records})
    figures = run.evaluation.final(run.task.backbone)
    before = run.evaluation.final(run.untrained_backbone())
    summary: dict[str, Any] = {
        "loss": result.loss,
        **figures,
        **{f"untrained_{name}": value for name, value in before.items()},
        "images_per_second": result.images_per_second,
        "steps": result.step,
        "seconds_this_session": time.time() - started,
        "command": shlex.join(["python", *sys.argv]),
        "hardware": hardware(run.accelerator),
        "versions": versions(),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "config": plain_values(run.config),
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


def main() -> None:
    started = time.time()
    config = parse_config(PretrainConfig)
    folder = config.run_folder
    try:
        check_same_run(config, folder / "config.yaml")
        if (folder / "summary.json").exists():
            summary = json.loads((folder / "summary.json").read_text())
            print("this run is finished already; another --out starts a new one")
            return tell(summary, folder)
        run = build_pretraining(config)
    except ValueError as error:
        if config.debug:
            raise
        sys.exit(_user_error(error))
    prepare_folder(run, folder)
    try:
        result = train(run, folder)
    except NonFiniteError as error:
        sys.exit(f"pretrain.py: stopped: {error}")
    main_process = run.accelerator.is_main_process
    if result.stopped_by is None:
        summary = finish(run, folder, result, started)
        if main_process:
            tell(summary, folder)
    elif main_process:
        name = signal.Signals(result.stopped_by).name
        print(f"stopped by {name} at step {result.step}; the same command resumes")
    run.accelerator.end_training()
    if result.stopped_by is not None:
        sys.exit(128 + result.stopped_by)


def _user_error(error: ValueError) -> int:
    print(f"pretrain.py: error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
