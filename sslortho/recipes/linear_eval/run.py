"""A linear evaluation by either protocol, or a fine-tuning; one run folder."""

import sys
from pathlib import Path
from typing import Any

from sslortho.data.first_rank import is_first_rank
from sslortho.recipes.changed_inputs import find_finished
from sslortho.recipes.evaluation import hash_backbone, read_inputs
from sslortho.recipes.evaluation_report import describe_accuracy
from sslortho.recipes.given import NOTHING, Given
from sslortho.recipes.linear_eval.fast_probe import build_fast_probe, run_fast_probe
from sslortho.recipes.linear_eval.options import LinearEvalOptions
from sslortho.recipes.linear_eval.training import (
    LinearEvaluation,
    build_linear_evaluation,
    run_training,
)
from sslortho.runs.config_file import keep_fitted
from sslortho.runs.folder import RunFolder
from sslortho.runs.provenance import Session
from sslortho.runs.status import status_of


def run(options: LinearEvalOptions, session: Session, given: Given = NOTHING) -> dict[str, Any]:
    """Evaluate a backbone, or resume; the content of summary.json. Every rank must call.

    Args:
        options: of the run; its folder is `options.run_folder`.
        session: command and start, for summary.json.
        given: objects that a Python caller hands over.

    Raises:
        ValueError: a user's mistake, a folder of another run.
        RunStoppedError: a signal stopped it; it can resume.
        NonFiniteError, RankLostError, OSError: as `Trainer.run`.
    """
    folder = RunFolder(options.run_folder)
    folder.check_same(options)
    options = keep_fitted(options, folder.path)
    finished = find_finished(
        options, folder, lambda: read_inputs(options, given), lambda: hash_backbone(options)
    )
    if finished is not None:
        if is_first_rank():
            tell(finished, folder.path)
        return finished
    fast = options.protocol == "lbfgs"
    build = build_fast_probe if fast else build_linear_evaluation
    evaluation = build(options, given)
    accelerator = evaluation.accelerator
    accelerator.print(evaluation.subject.origin)
    if ignored := options.without_effect:
        accelerator.print(f"no effect on protocol='lbfgs': {', '.join(ignored)}", file=sys.stderr)
    if isinstance(evaluation, LinearEvaluation):
        summary = run_training(evaluation, folder, session)
    else:
        folder.prepare(accelerator, options)
        with status_of(folder.path, accelerator.is_main_process):
            summary = run_fast_probe(evaluation, options, folder, session)
    if accelerator.is_main_process:
        tell(summary, folder.path)
    accelerator.end_training()
    return summary


def tell(summary: dict[str, Any], folder: Path) -> None:
    """Print the final figures."""
    print(f"{folder}: {describe_accuracy(summary)}")
    if "best_top1" in summary:
        print(f"  (best epoch on the test images: {summary['best_top1']:.2f} %; not a result)")
    trained = ", backbone.safetensors" if summary["config"]["weights"] == "finetune" else ""
    print(f"  report.md, summary.json, classifier.safetensors{trained}")
