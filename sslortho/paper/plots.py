"""Curves of an experiment's cells: the mean over the seeds, and its standard error."""

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from sslortho.runs.comparison import statistic
from sslortho.paper.grid import Cell, Experiment, Plot
from sslortho.evaluate.figures import COLOURS, GREY, MARKERS, new_figure, plain_text, save_figure

Record = Mapping[str, Any]
Read = Callable[[Path], Sequence[Record]]

EVALUATIONS = {"accuracy": ("val_top1", "top1"), "evaluation_loss": ("val_loss", "test_loss")}
"""Quantity to its names in metrics.jsonl: of held-out images, and of the test images."""

LABELS = {
    "val_top1": "validation top-1 (%)",
    "top1": "test top-1 (%)",
    "val_loss": "validation loss",
    "test_loss": "test loss",
    "train_top1": "training top-1 (%)",
    "loss": "training loss",
}

LAYER_LABELS = {
    "representation_cosine": "mean absolute cosine of representations",
    "filter_cosine": "mean absolute cosine of filters",
    "tiny_gradients": "parameters with a gradient of at most 1e-4",
    "zero_gradients": "parameters without a gradient",
}
"""Of quantities that are followed by the name of a layer."""

COUNTS = re.compile(r"^(zero|tiny)_gradients")
WINDOW = 50
"""Steps of a running mean; of arXiv 2202.07052, figure 9, batches."""

LOG_RATIO = 30
"""Largest loss to smallest, from which a linear axis hides one end."""

SOLID = ("-", (0, (9, 1.5)), (0, (7, 1, 1, 1)))
BROKEN = ("--", ":", "-.", (0, (1, 3)))
EVERY = 3
"""Step through COLOURS: it reaches all ten, neighbours contrast, and the faint yellow comes late."""
MOST_INSIDE = 5
"""Entries of a legend that leave room for the curves."""


@dataclass(frozen=True)
class Line:
    """A cell's curve: at each `x` the mean of `counts` seeds; `stderr` is 0 where there is one."""

    cell: Cell
    name: str
    """In metrics.jsonl."""
    x: Sequence[float]
    mean: Sequence[float]
    stderr: Sequence[float]
    counts: Sequence[int]


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it can be drawn and averaged."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_records(folder: Path) -> list[Record]:
    """Of a run's metrics.jsonl; lines that a crash cut short are left out, a missing file is empty."""
    try:
        lines = (folder / "metrics.jsonl").read_bytes().decode(errors="replace").splitlines()
    except OSError:
        return []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and all(is_number(record.get(n)) for n in ("step", "epoch")):
            records.append(record)
    return records


def find_by_seed(folder: Path, cell: Cell, suffix: str = "") -> dict[int, Path]:
    """Seed to what is called after a run of this cell: the runs' folders, or files with a suffix."""
    pattern = re.compile(re.escape(cell.name) + r"-s(\d+)" + re.escape(suffix))
    paths = folder.iterdir() if folder.is_dir() else ()
    found = ((pattern.fullmatch(path.name), path) for path in paths)
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def recorded_name(records: Sequence[Record], quantity: str) -> str:
    """What a quantity is called in these records."""
    held_out, tested = EVALUATIONS.get(quantity, (quantity, quantity))
    return held_out if any(held_out in record for record in records) else tested


def run_points(records: Sequence[Record], name: str, x: str) -> dict[float, float]:
    """Values of one run by `x`, "epoch" or "step".

    By epochs, an evaluation stands at the number of finished epochs, and the training records of an
    epoch, weighted by the steps that each is of, at its end: those of the first at 1.
    """
    points: dict[float, float] = {}
    sums: dict[int, tuple[float, int]] = {}
    last = 0
    for record in records:
        if name not in record:
            continue
        step, epoch, value = int(record["step"]), record["epoch"], record[name]
        training = "loss" in record  # of every training record, and of no evaluation
        steps, last = max(1, step - last), step
        if not is_number(value):
            continue
        if x == "step" or not training:
            points[step if x == "step" else epoch] = value
        else:
            total, weight = sums.get(epoch, (0.0, 0))
            sums[epoch] = total + value * steps, weight + steps
    return points | {epoch + 1: total / weight for epoch, (total, weight) in sums.items()}


def mean_line(cell: Cell, name: str, runs: Iterable[Mapping[float, float]]) -> Line:
    """Mean over the runs that have a value, at each x that any has."""
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
    """The curves of a plot, of the cells that have any value yet.

    Args:
        experiment: which the plot is of.
        plot: what to draw.
        runs: folder of the runs.
        read: run folder to its records.
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
    """Mean over window / 2 steps on either side of each value, or as many as there are on both.

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


class _Looks:
    """How each cell is drawn: by colour its row, and by dashes its column; by both if of one row."""

    def __init__(self, experiment: Experiment, lines: Sequence[Line]) -> None:
        self.rows = [r for r in experiment.rows if any(line.cell.row == r for line in lines)]
        self.columns = [c for c in experiment.columns if any(li.cell.column == c for li in lines)]
        self.by_row = len(self.rows) > 1
        self.experiment = experiment
        self.dashes = _styles(experiment.columns)

    def of(self, row: str, column: str) -> dict[str, Any]:
        """Keywords of matplotlib; the same in every plot of the experiment with as many rows."""
        place = list(self.experiment.rows if self.by_row else self.experiment.columns)
        i = place.index(row if self.by_row else column)
        marker = MARKERS[(i // len(COLOURS) - 1) % len(MARKERS)] if i >= len(COLOURS) else None
        colour = COLOURS[EVERY * i % len(COLOURS)]
        return {"color": colour, "marker": marker, "linestyle": self.dashes[column]}

    def legend(self) -> list[tuple[dict[str, Any], str]]:
        """Looks and labels: rows and columns apart, rather than each with each."""
        rows, columns = self.experiment.rows, self.experiment.columns
        if not self.by_row:
            return [(self.of(self.rows[0], c), columns[c]) for c in self.columns]
        keys = [({**self.of(r, self.columns[0]), "linestyle": "-"}, rows[r]) for r in self.rows]
        grey = {"color": GREY, "marker": None}
        return keys + [({**grey, "linestyle": self.dashes[c]}, columns[c]) for c in self.columns]


def _draw_line(axis: Any, line: Line, look: dict[str, Any], counts: bool) -> None:
    x, mean, stderr = (np.asarray(v, dtype=float) for v in (line.x, line.mean, line.stderr))
    colour = look["color"]
    if counts:
        axis.scatter(x, mean, s=4, color=colour, alpha=0.35, linewidths=0, rasterized=True)
        axis.plot(x, running_mean(line.x, line.mean), linewidth=1.6, **look)
        return
    if len(x) == 1:
        look = {**look, "marker": look["marker"] or "o"}
    axis.plot(x, mean, linewidth=1.4, markevery=max(1, len(x) // 10), markersize=4, **look)
    if max(line.counts) > 1:
        axis.fill_between(x, mean - stderr, mean + stderr, color=colour, alpha=0.15, linewidth=0)


def _needs_logarithm(plot: Plot, lines: Sequence[Line]) -> bool:
    values = [value for line in lines for value in line.mean]
    return "loss" in plot.quantity and min(values) > 0 and max(values) > LOG_RATIO * min(values)


def _add_legend(axis: Any, looks: _Looks) -> None:
    from matplotlib.lines import Line2D

    entries = looks.legend()
    handles = [Line2D([], [], label=plain_text(label, 40), **look) for look, label in entries]
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
    """A picture of curves, 1 or more: a colour for each row (or column, of one row), orth_* solid.

    Counts of gradients by step are points with their running mean. Losses have a logarithmic axis
    where they span more than a factor of LOG_RATIO.
    """
    counts = plot.x == "step" and bool(COUNTS.match(plot.quantity))
    looks = _Looks(experiment, lines)
    figure = new_figure(9 if len(looks.legend()) > MOST_INSIDE else 7.5, 5)
    axis = figure.subplots()
    for line in lines:
        _draw_line(axis, line, looks.of(line.cell.row, line.cell.column), counts)
    if _needs_logarithm(plot, lines):
        axis.set_yscale("log")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel(plot.x)
    axis.set_ylabel(plain_text(_label(lines, plot.quantity), 60))
    rows = {line.cell.row for line in lines}
    network = f", {experiment.rows[rows.pop()]}" if len(rows) == 1 < len(looks.legend()) else ""
    axis.set_title(plain_text(plot.title + network, 90), fontsize="medium")
    axis.grid(alpha=0.3)
    _add_legend(axis, looks)
    save_figure(figure, path)
