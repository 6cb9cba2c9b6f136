"""Picture of a run: its curves against steps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sslortho.evaluate.figures import GREY, new_figure, save_figure
from sslortho.train.records import Record

MOST_POINTS = 2000
"""Approximate maximum number of points per curve: more than a picture has pixels."""


@dataclass(frozen=True)
class Panel:
    """Curves that share an axis."""

    label: str
    """Label of the axis."""
    names: Mapping[str, str]
    """Name of a figure in records to its label in the legend."""
    chance: float | None = None
    """Value that features without any knowledge have, drawn as a dotted line."""
    from_zero: bool = False
    """Whether the axis begins at 0, so that a fall to nothing looks like one."""


ACCURACIES = {
    "val_top1": "held-out top-1 (%)",
    "top1": "test top-1 (%)",
    "val_knn_top1": "held-out kNN top-1 (%)",
    "knn_top1": "kNN top-1 (%)",
}
"""Accuracies that may be drawn beside the loss, with their labels; the first one recorded is."""

LOSS = Panel("loss", {"loss": "training", "val_loss": "held-out"})

WITHOUT_LABELS = (
    Panel("own view told from others (%)", {"probe/ranking": "features"}, chance=50),
    Panel("RankMe", {"probe/rankme": "features", "probe/projection_rankme": "projections"},
          from_zero=True),
    Panel("spread (1: uniform, 0: one point)",
          {"probe/feature_std": "features", "probe/projection_std": "projections"}, from_zero=True),
    Panel("distance on the sphere",
          {"probe/alignment": "alignment", "probe/uniformity": "uniformity"}),
    Panel("entropy of the teacher (nats)",
          {"teacher_entropy": "of an image", "teacher_mean_entropy": "of the mean"}),
)  # fmt: skip
"""Panels of figures that need no labels; see `recipes.pretrain.probe` and `methods.dino`."""

COLUMNS = 3
"""Panels beside each other."""


def curve_names() -> set[str]:
    """Names of all figures that may be drawn."""
    panels = (LOSS, *WITHOUT_LABELS)
    return {*ACCURACIES, *(name for panel in panels for name in panel.names)}


def _series(records: Sequence[Record], name: str) -> tuple[list[float], list[float]]:
    points = [(r["step"], r[name]) for r in records if r.get(name) is not None]
    points = points[:: max(1, len(points) // MOST_POINTS)]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return list(steps), list(values)  # pyright: ignore[reportReturnType]


def choose_panels(runs: Mapping[str, Sequence[Record]]) -> list[Panel]:
    """Panels for which something was recorded, each without the curves that no run has."""
    known = {
        name for records in runs.values() for record in records for name in record
        if record[name] is not None
    }  # fmt: skip
    accuracy = next((name for name in ACCURACIES if name in known), None)
    panels = [LOSS, *WITHOUT_LABELS]
    if accuracy is not None:
        panels.insert(1, Panel(ACCURACIES[accuracy], {accuracy: ""}))
    kept = [
        replace(panel, names={n: label for n, label in panel.names.items() if n in known})
        for panel in panels
    ]
    return [panel for panel in kept if panel.names]


def draw_curves(path: Path, runs: Mapping[str, Sequence[Record]], title: str = "") -> None:
    """Draw loss, accuracy and figures without labels against steps; a colour for each run.

    There are as many panels as figures were recorded. The accuracy is that of held-out images if there
    are some, else of test images, else of kNN.

    Args:
        path: the picture.
        runs: label to records of a metrics.jsonl.
        title: above the picture.
    """
    panels = choose_panels(runs) or [LOSS]
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(5 * columns, 4 * rows if rows == 1 else 3.4 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        _draw_panel(axis, panel, runs)
    for axis in axes[len(panels) :]:
        axis.remove()
    figure.suptitle(title)
    save_figure(figure, path)


STYLES = ("-", "--", ":")
"""Lines of the figures of a panel."""


def _draw_panel(axis: Any, panel: Panel, runs: Mapping[str, Sequence[Record]]) -> None:
    drawn: list[float] = []
    for number, (run, records) in enumerate(runs.items()):
        for style, (name, label) in zip(STYLES, panel.names.items(), strict=False):
            steps, values = _series(records, name)
            drawn += values
            text = ", ".join(filter(None, (run if len(runs) > 1 else "", label)))
            colour = f"C{number % 10}" if len(runs) > 1 else None
            marker = "o" if len(steps) < 30 else None
            axis.plot(steps, values, style, label=text, color=colour, marker=marker)
    if panel.chance is not None:
        axis.axhline(panel.chance, color=GREY, linestyle=":", linewidth=1)
    if panel.from_zero:
        axis.set_ylim(bottom=0)
    axis.set_xlabel("step")
    axis.set_ylabel(panel.label)
    axis.grid(alpha=0.3)
    if panel == LOSS or "loss" in panel.names:
        _use_logarithm(axis, drawn)
    if len(runs) > 1 or len(panel.names) > 1:
        axis.legend(fontsize="small")


def _use_logarithm(axis: Any, losses: Sequence[float]) -> None:
    """Scale an axis by logarithms if all losses are positive: a negative cosine has none."""
    if not losses or min(losses) <= 0:
        return
    axis.set_yscale("log")
    for choose in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        choose("{x:g}")  # no powers of ten
