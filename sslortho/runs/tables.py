"""A comparison of runs as Markdown and as CSV."""

import csv
import io
import math
import re
from collections.abc import Sequence
from typing import Any

from sslortho.runs.comparison import NO_RESULTS, Comparison, Row

ACCURACY, LOSS = re.compile(r"(^|_)(top\d+|accuracy)$"), re.compile(r"(^|_)(loss|error)$")


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "-", True: "true", False: "false"}[value]
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def escape(text: str) -> str:
    """Of Markdown, inside a table."""
    text = re.sub(r"([\\`*|<\[\]~$])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)


def _decimals(name: str, means: Sequence[float]) -> int:
    """Two for percentages, else such that the largest mean has four digits."""
    largest = max(map(abs, means), default=0.0)
    if ACCURACY.search(name) or largest == 0:
        return 2
    return max(0, 3 - math.floor(math.log10(largest)))


def best_shown(name: str, shown: Sequence[str]) -> str | None:
    """The best of some means as they are shown; None where there is no better and worse."""
    order = max if ACCURACY.search(name) else min if LOSS.search(name) else None
    if order is None or len(shown) < 2 or name.startswith(NO_RESULTS):
        return None
    return order(shown, key=float)


def _figure_column(name: str, rows: Sequence[Row]) -> list[str]:
    decimals = _decimals(name, [row.figures[name].mean for row in rows if name in row.figures])
    means = [
        f"{row.figures[name].mean:.{decimals}f}" if name in row.figures else "-" for row in rows
    ]
    best = best_shown(name, [mean for mean in means if mean != "-"])
    cells = [f"**{mean}**" if mean == best else mean for mean in means]
    for i, row in enumerate(rows):
        statistic, total = row.figures.get(name), len(row.runs)
        if statistic and statistic.stderr is not None:
            cells[i] += f" ± {statistic.stderr:.{decimals}f}"
        if statistic and statistic.count < total:
            cells[i] += f" ({statistic.count} of {total})"
    return cells


def table_lines(columns: Sequence[Sequence[str]], left: int) -> list[str]:
    """Lines of a Markdown table, padded to read well as plain text.

    Args:
        columns: each its header and its cells, escaped already.
        left: how many columns are of text; the others go to the right.
    """
    widths = [max(3, *map(len, column)) for column in columns]
    lines = [
        f"| {' | '.join([c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in cells])} |"
        for cells in (
            enumerate(zip(line, widths, strict=True)) for line in zip(*columns, strict=True)
        )
    ]
    rule = ["-" * (width + 1) + ("-" if i < left else ":") for i, width in enumerate(widths)]
    return [lines[0], f"|{'|'.join(rule)}|", *lines[1:]]


def to_markdown(comparison: Comparison) -> str:
    """The table, the best of each accuracy (highest) and loss (lowest) in bold, and its notes."""
    rows = comparison.rows
    columns = [[name, *(_text(row.labels[name]) for row in rows)] for name in comparison.columns]
    columns = [list(map(escape, column)) for column in columns]
    columns += [["n", *(str(len(row.runs)) for row in rows)]]
    columns += [[escape(name), *_figure_column(name, rows)] for name in comparison.figures]
    lines = table_lines(columns, left=len(comparison.columns))
    if any(len(row.runs) > 1 for row in rows):
        lines += ["", "n runs each; ± is the standard error of their mean."]
    lines += ["", *(f"- {escape(note)}" for note in comparison.notes)] if comparison.notes else []
    return "\n".join(lines) + "\n"


def to_csv(comparison: Comparison) -> str:
    """Plain numbers in full: labels, n, three columns a figure, the folders joined by semicolons."""
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
