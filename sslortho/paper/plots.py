"""Plots of an experiment: curves of its cells, the mean over the seeds and its standard error."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sslortho.evaluate.figures import COLOURS, GREY, MARKERS, new_figure, plain_text, save_figure
from sslortho.paper.grid import Cell, Experiment, Plot
from sslortho.paper.run_records import (
    EVALUATIONS,
    Read,
    find_by_seed,
    read_records,
    recorded_name,
    run_points,
)
from sslortho.runs.several.comparison import statistic

LABELS = {
    "val_top1": "validation top-1 (%)",
    "top1": "test top-1 (%)",
    "val_loss": "validation loss",
    "test_loss": "test loss",
    "train_top1": "training top-1 (%)",
    "loss": "training loss",
    "val_knn_top1": "kNN top-1 of held-out images (%)",
    "knn_top1": "kNN top-1 of test images (%)",
}

LAYER_LABELS = {
    "representation_cosine": "mean absolute cosine of representations",
    "filter_cosine": "mean absolute cosine of filters",
    "tiny_gradients": "parameters with a gradient of at most 1e-4",
    "zero_gradients": "parameters without a gradient",
}
"""Labels of quantities whose names end with that of a layer."""

COUNTS = re.compile(r"^(zero|tiny)_gradients")
WINDOW = 50
"""Width of the running mean in steps, as figure 9 of arXiv 2202.07052 has it in batches."""

LOG_RATIO = 30
"""Ratio of the largest to the smallest loss above which a linear axis would hide one end."""

SOLID = ("-", (0, (9, 1.5)), (0, (7, 1, 1, 1)))
BROKEN = ("--", ":", "-.", (0, (1, 3)))
EVERY = 3
"""Step through COLOURS: reaches all ten, makes neighbours contrast, and takes the faint yellow late."""
MOST_INSIDE = 5
"""Most entries of a legend that leave room for the curves; else the legend stands outside."""


@dataclass(frozen=True)
class Line:
    """Curve of a cell: at each `x` the mean of `counts` seeds; `stderr` is 0 for one seed."""

    cell: Cell
    name: str
    """Name of the quantity in metrics.jsonl."""
    x: Sequence[float]
    mean: Sequence[float]
    stderr: Sequence[float]
    counts: Sequence[int]


def mean_line(cell: Cell, name: str, runs: Iterable[Mapping[float, float]]) -> Line:
    """Mean over the runs that have a value, at each x that any of them has."""
    values: dict[float, list[float]] = defaultdict(list)
    for points in runs:
        for x, value in points.items():
            values[x].append(value)
    xs = sorted(values)
    found = [statistic(values[x]) for x in xs]
    stderr = [s.stderr or 0.0 for s in found]
    return Line(cell, name, xs, [s.mean for s in found], stderr, [s.count for s in found])


def plot_lines(
    experiment: Experiment, plot: Plot, runs: Path, read: Read = read_records
) -> list[Line]:
    """Curves of a plot, for the cells that have any value yet.

    Args:
        experiment: that the plot belongs to.
        plot: cells and quantity.
        runs: folder of the runs.
        read: from a run folder to its records.
    """
    lines = []
    for cell in experiment.cells:
        if plot.cells and cell.name not in plot.cells:
            continue
        names, series = set(), []
        for folder in find_by_seed(runs, cell).values():
            records = read(folder)
            names.add(name := recorded_name(records, plot.quantity))
            series.append(run_points(records, name, plot.x))
        line = mean_line(cell, names.pop() if len(names) == 1 else plot.quantity, series)
        lines += [line] if line.x else []
    return lines


def running_mean(
    steps: Sequence[float], values: Sequence[float], window: float = WINDOW
) -> np.ndarray:
    """Mean over window / 2 steps on either side of each value; near an end over fewer, on both sides.

    Args:
        steps: rising.
        values: one at each step.
        window: in steps.
    """
    x = np.asarray(steps, dtype=float)
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=float))])
    reach = np.minimum(window / 2, np.minimum(x - x[0], x[-1] - x))
    first = np.searchsorted(x, x - reach, side="left")
    end = np.searchsorted(x, x + reach, side="right")
    return (sums[end] - sums[first]) / (end - first)


def _styles(columns: Iterable[str]) -> dict[str, Any]:
    """Column to line style: solid with orthonormalised gradients, broken without."""
    used = {True: 0, False: 0}
    styles = {}
    for column in columns:
        orth = column.startswith("orth")
        choice = SOLID if orth else BROKEN
        styles[column] = choice[used[orth] % len(choice)]
        used[orth] += 1
    return styles


class _Styles:
    """Line styles of the cells: the colour is that of the row (of the column where there is one row),
    the dashes are those of the column."""

    def __init__(self, experiment: Experiment, lines: Sequence[Line]) -> None:
        self.rows = [r for r in experiment.rows if any(line.cell.row == r for line in lines)]
        self.columns = [c for c in experiment.columns if any(li.cell.column == c for li in lines)]
        self.by_row = len(self.rows) > 1
        self.experiment = experiment
        self.dashes = _styles(experiment.columns)

    def of(self, row: str, column: str) -> dict[str, Any]:
        """Keywords of matplotlib for a cell; the same in every plot of the experiment."""
        place = list(self.experiment.rows if self.by_row else self.experiment.columns)
        i = place.index(row if self.by_row else column)
        marker = MARKERS[(i // len(COLOURS) - 1) % len(MARKERS)] if i >= len(COLOURS) else None
        colour = COLOURS[EVERY * i % len(COLOURS)]
        return {"color": colour, "marker": marker, "linestyle": self.dashes[column]}

    def legend(self) -> list[tuple[dict[str, Any], str]]:
        """Styles and labels: rows and columns apart, not every combination."""
        rows, columns = self.experiment.rows, self.experiment.columns
        if not self.by_row:
            return [(self.of(self.rows[0], c), columns[c]) for c in self.columns]
        keys = [({**self.of(r, self.columns[0]), "linestyle": "-"}, rows[r]) for r in self.rows]
        grey = {"color": GREY, "marker": None}
        return keys + [({**grey, "linestyle": self.dashes[c]}, columns[c]) for c in self.columns]


def _draw_line(axis: Any, line: Line, style: dict[str, Any], counts: bool) -> None:
    x, mean, stderr = (np.asarray(v, dtype=float) for v in (line.x, line.mean, line.stderr))
    colour = style["color"]
    if counts:
        axis.scatter(x, mean, s=4, color=colour, alpha=0.35, linewidths=0, rasterized=True)
        axis.plot(x, running_mean(line.x, line.mean), linewidth=1.6, **style)
        return
    if len(x) == 1:
        style = {**style, "marker": style["marker"] or "o"}
    axis.plot(x, mean, linewidth=1.4, markevery=max(1, len(x) // 10), markersize=4, **style)
    if max(line.counts) > 1:
        axis.fill_between(x, mean - stderr, mean + stderr, color=colour, alpha=0.15, linewidth=0)


def _needs_logarithm(plot: Plot, lines: Sequence[Line]) -> bool:
    values = [value for line in lines for value in line.mean]
    return "loss" in plot.quantity and min(values) > 0 and max(values) > LOG_RATIO * min(values)


def _add_legend(axis: Any, styles: _Styles) -> None:
    from matplotlib.lines import Line2D

    entries = styles.legend()
    handles = [Line2D([], [], label=plain_text(label, 40), **style) for style, label in entries]
    outside = len(handles) > MOST_INSIDE
    place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)} if outside else {"loc": "best"}
    axis.legend(handles=handles, fontsize="small", handlelength=3, **place)


def _label(lines: Sequence[Line], quantity: str) -> str:
    names = {line.name for line in lines}
    name = names.pop() if len(names) == 1 else quantity
    kind, _, layer = name.partition("/")
    if layer and kind in LAYER_LABELS:
        return LAYER_LABELS[kind]
    return LABELS.get(name, name.replace("_", " ") if name in EVALUATIONS else name)


def draw_plot(path: Path, experiment: Experiment, plot: Plot, lines: Sequence[Line]) -> None:
    """Draw one or more curves; those of orth_* are solid.

    Counts of gradients by step are points with their running mean. Losses that span more than a factor
    of LOG_RATIO have a logarithmic axis.
    """
    counts = plot.x == "step" and bool(COUNTS.match(plot.quantity))
    styles = _Styles(experiment, lines)
    figure = new_figure(9 if len(styles.legend()) > MOST_INSIDE else 7.5, 5)
    axis = figure.subplots()
    for line in lines:
        _draw_line(axis, line, styles.of(line.cell.row, line.cell.column), counts)
    if _needs_logarithm(plot, lines):
        axis.set_yscale("log")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel(plot.x)
    axis.set_ylabel(plain_text(_label(lines, plot.quantity), 60))
    rows = {line.cell.row for line in lines}
    network = f", {experiment.rows[rows.pop()]}" if len(rows) == 1 < len(styles.legend()) else ""
    axis.set_title(plain_text(plot.title + network, 90), fontsize="medium")
    axis.grid(alpha=0.3)
    _add_legend(axis, styles)
    save_figure(figure, path)
