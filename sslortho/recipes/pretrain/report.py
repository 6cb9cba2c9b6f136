"""Final figures of a pretraining: on the terminal, and as report.md."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sslortho.evaluate import Picture, Verdict
from sslortho.evaluate.verdict import verdict_lines
from sslortho.options import GIVEN
from sslortho.runs.folder import RunFolder
from sslortho.runs.run_report import ReportFigure, write_report

MEANINGS = {
    "val_knn_top1": ("%", "kNN on held-out images"),
    "val_linear_top1": ("%", "linear probe on held-out images"),
    "knn_top1": ("%", "kNN on test images"),
    "linear_top1": ("%", "linear probe on test images"),
    "rankme": ("", "effective rank of the features (RankMe, arXiv 2210.02885)"),
    "feature_std": ("", "spread of the features: 1 if uniform on the sphere, 0 for one point"),
    "neighbour_agreement": ("%", "images whose nearest neighbour is their own second view"),
    "pair_ranking": ("%", "other images that are farther than the own second view; 50 by chance"),
    "alignment": ("", "mean squared distance of two views on the sphere (arXiv 2005.10242)"),
    "uniformity": ("", "log of the mean potential of pairs on the sphere (arXiv 2005.10242)"),
    "val_loss": ("", "loss of the held-out images"),
    "loss": ("", "training loss at the end"),
    "steps": ("", "optimizer steps"),
    "images_per_second": ("", "in training"),
    "peak_memory_gib": ("GiB", "most memory in use on the GPU in training"),
}
"""Name of a figure to its unit and its meaning."""

STATES = {"initial": "with the initial weights", "untrained": "of the untrained network"}
"""Prefix of figures from before the training to its meaning."""

AS_GIVEN = "of the network as given"
"""Meaning of "untrained" for a module that was handed over: it may be trained."""


def _list_figures(summary: Mapping[str, Any]) -> list[ReportFigure]:
    figures, states = [], dict(STATES)
    if summary["config"]["backbone"] == GIVEN:
        states["untrained"] = AS_GIVEN
    for name, (unit, meaning) in MEANINGS.items():
        if name in summary:
            figures.append(ReportFigure(name, summary[name], unit, meaning))
        for state, words in states.items():
            if (before := summary.get(f"{state}_{name}")) is not None:
                figures.append(ReportFigure(f"{state}_{name}", before, unit, f"the same {words}"))
    return figures


def write_pretraining_report(
    folder: RunFolder, summary: Mapping[str, Any], verdict: Verdict, data: str
) -> None:
    """Write report.md: the verdict, figures, curves and views, command, settings and machine.

    Args:
        folder: of the run, with its pictures.
        summary: content of summary.json.
        verdict: on the run.
        data: short name of the images.
    """
    config = summary["config"]
    write_report(
        folder.report,
        title=f"{config['method']} on {data}: {verdict.name}",
        lead=[line.strip() for line in verdict.lines()],
        figures=_list_figures(summary),
        settings=config,
        pictures=[
            Picture(path, caption)
            for path, caption in (
                (folder.curves, "Figures against optimizer steps; dotted: by chance."),
                (folder.views, "Views of a batch: each column is one image."),
            )
            if path.exists()
        ],
        command=summary["command"],
        versions=summary["versions"],
        hardware=summary["hardware"],
    )


def _count_steps(steps: int) -> str:
    return f"{steps} step{'' if steps == 1 else 's'}"


def tell(summary: dict[str, Any], folder: Path) -> None:
    """Print the final figures."""
    loss = math.nan if summary["loss"] is None else summary["loss"]
    print(f"{folder}: loss {loss:.4g} after {_count_steps(summary['steps'])}")
    names = {"val_knn_top1": "held-out kNN (%)", "val_linear_top1": "held-out probe (%)",
             "knn_top1": "kNN top-1 (%)", "linear_top1": "linear top-1 (%)",
             "rankme": "RankMe", "feature_std": "feature std",
             "neighbour_agreement": "views agree (%)", "pair_ranking": "own view told from others (%)",
             "val_loss": "held-out loss"}  # fmt: skip
    for name, label in names.items():
        if summary.get(name) is None:
            continue
        before = "".join(
            f"   {state} {summary[f'{state}_{name}']:8.2f}"
            for state in ("initial", "untrained")
            if summary.get(f"{state}_{name}") is not None
        )
        print(f"  {label:19} {summary[name]:8.2f}{before}")
    if summary.get("verdict"):
        print("\n".join(verdict_lines(summary["verdict"])))
    print("  report.md, curves.png, views.png, metrics.jsonl, summary.json, backbone.safetensors")
