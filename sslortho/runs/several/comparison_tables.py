"""A comparison of runs as Markdown and as CSV."""

import csv
import io
import math
from collections.abc import Sequence, Set
from typing import Any

from sslortho.runs.markdown import escape, table_lines
from sslortho.runs.several.comparison import ACCURACY, LOSS, NO_RESULTS, Comparison, Row

OTHER_DATA = frozenset({"data", "data_dir", "test_data", "labels"})
"""Options that say which images figures are of: those of other images are not better or worse."""


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "-", True: "true", False: "false"}[value]
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _decimals(name: str, means: Sequence[float]) -> int:
    """Decimal places: two for percentages, else such that the largest mean has four digits."""
    largest = max(map(abs, means), default=0.0)
    if ACCURACY.search(name) or largest == 0:
        return 2
    return max(0, 3 - math.floor(math.log10(largest)))


def best_shown(name: str, shown: Sequence[str]) -> str | None:
    """The best of some means, as they are shown; None where neither high nor low is better."""
    order = max if ACCURACY.search(name) else min if LOSS.search(name) else None
    if order is None or len(shown) < 2 or name.startswith(NO_RESULTS):
        return None
    return order(shown, key=float)


def _figure_column(name: str, rows: Sequence[Row], compared: bool) -> list[str]:
    decimals = _decimals(name, [row.figures[name].mean for row in rows if name in row.figures])
    means = [
        f"{row.figures[name].mean:.{decimals}f}" if name in row.figures else "-" for row in rows
    ]
    best = best_shown(name, [mean for mean in means if mean != "-"]) if compared else None
    cells = [f"**{mean}**" if mean == best else mean for mean in means]
    for i, row in enumerate(rows):
        statistic, total = row.figures.get(name), len(row.runs)
        if statistic and statistic.stderr is not None:
            cells[i] += f" ± {statistic.stderr:.{decimals}f}"
        if statistic and statistic.count < total:
            cells[i] += f" ({statistic.count} of {total})"
    return cells


def _is_compared(name: str, different: Set[str], of_loss: Set[str]) -> bool:
    """Whether the best of a figure means something where rows differ in these options."""
    return not different & OTHER_DATA and not (LOSS.search(name) and different & of_loss)


def to_markdown(comparison: Comparison, of_loss: Set[str] = frozenset()) -> str:
    """The table and its notes; the highest accuracy and the lowest loss are bold.

    Nothing is bold where rows are of different images, and no loss where they differ in what the loss is.

    Args:
        comparison: to show.
        of_loss: options that a loss depends on by its definition, such as its temperature.
    """
    rows, different = comparison.rows, comparison.different
    columns = [[name, *(_text(row.labels[name]) for row in rows)] for name in comparison.columns]
    columns = [list(map(escape, column)) for column in columns]
    columns += [["n", *(str(len(row.runs)) for row in rows)]]
    columns += [
        [escape(name), *_figure_column(name, rows, _is_compared(name, different, of_loss))]
        for name in comparison.figures
    ]
    right = [i >= len(comparison.columns) for i in range(len(columns))]
    lines = table_lines(columns, right)
    if any(len(row.runs) > 1 for row in rows):
        lines += ["", "n runs each; ± is the standard error of their mean."]
    if comparison.equal:
        values = (f"{escape(name)} {value:.6g}" for name, value in comparison.equal.items())
        lines += ["", f"The same in all rows: {', '.join(values)}."]
    lines += ["", *(f"- {escape(note)}" for note in comparison.notes)] if comparison.notes else []
    return "\n".join(lines) + "\n"


def to_csv(comparison: Comparison) -> str:
    """The table with numbers in full: labels, n, three columns a figure, folders joined by ";"."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    parts = [f"{name}_{part}" for name in comparison.figures for part in ("mean", "stderr", "n")]
    writer.writerow([*comparison.columns, "n", *parts, "runs"])
    for row in comparison.rows:
        labels = ["" if v is None else _text(v) for v in map(row.labels.get, comparison.columns)]
        numbers: list[Any] = []
        for name in comparison.figures:
            statistic = row.figures.get(name)
            numbers += (
                [statistic.mean, statistic.stderr, statistic.count] if statistic else ["", "", 0]
            )
        writer.writerow(
            [*labels, len(row.runs), *numbers, ";".join(run.folder for run in row.runs)]
        )
    return file.getvalue()
