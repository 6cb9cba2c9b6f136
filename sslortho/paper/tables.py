"""Section of a report: our figures beside the paper's, as Markdown and as CSV."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from sslortho.atomic import atomic_file
from sslortho.paper.found_runs import CellRuns, by_row, tell_progress
from sslortho.paper.grid import Cell, Experiment, Table
from sslortho.paper.run_records import Read
from sslortho.runs.markdown import escape, table_lines
from sslortho.runs.several.comparison import Statistic
from sslortho.runs.several.comparison_tables import ACCURACY, best_shown

MOST_SIDE_BY_SIDE = 3
"""Most columns of an experiment that leave room for the paper's beside them; else these are below."""

MOST_COLUMNS = 6
"""Most columns of an experiment that stand side by side; more are lines of the table."""

HEADER = ("row", "column", "mean", "stderr", "n", "finished", "diverged", "failed", "paper_mean",
          "paper_stderr")  # fmt: skip
"""First line of a table as CSV."""


def _decimals(figure: str) -> int:
    """Decimal places, as many as in the paper."""
    return 2 if ACCURACY.search(figure) else 4


def _plus_minus(mean: float, stderr: float | None, decimals: int) -> tuple[str, str]:
    error = "" if stderr is None else f" ± {stderr:.{decimals}f}"
    return f"{mean:.{decimals}f}", error


def _paper_text(table: Table, cell: Cell) -> str:
    if cell.name not in table.paper:
        return "-"
    mean, stderr = table.paper[cell.name]
    if mean is None:
        return "diverged"
    return "".join(_plus_minus(mean, stderr, _decimals(table.figure)))


def _clear_best(figure: str, cells: Mapping[str, Statistic]) -> str | None:
    """Cell whose mean leads each other one by more than both standard errors; None if there is none.

    Means over different numbers of seeds are never told apart.
    """
    best = best_shown(figure, [repr(cell.mean) for cell in cells.values()])
    for name, cell in cells.items():
        others = [other for key, other in cells.items() if key != name]
        if repr(cell.mean) == best and all(_is_apart(cell, other) for other in others):
            return name
    return None


def _is_apart(a: Statistic, b: Statistic) -> bool:
    if a.stderr is None or b.stderr is None or a.count != b.count:
        return False
    return abs(a.mean - b.mean) > a.stderr + b.stderr


def _our_text(state: CellRuns, figure: str, seeds: int, bold: bool, read: Read) -> str:
    found, diverged, finished = state.figure(figure), state.diverged, len(state.finished)
    if found:
        mean, error = _plus_minus(found.mean, found.stderr, _decimals(figure))
        text = (f"**{mean}**" if bold else mean) + error
        text += f" ({found.count})" if found.count != seeds else ""
        return text + (f", {diverged} of {finished} diverged" if diverged else "")
    if diverged:
        some = f" ({diverged})" if diverged != seeds else ""
        return "diverged" + some if diverged == finished else f"{diverged} of {finished} diverged"
    if finished:
        return "no figure"
    for begun, text in ((state.under_way, ""), (state.stopped, "stopped at ")):
        if begun:
            return text + max(tell_progress(folder, state.cell, read) for folder in begun)[1]
    return "failed" if state.failed else "-"


def _table_row(
    experiment: Experiment, table: Table, states: Sequence[CellRuns], read: Read
) -> dict[str, tuple[str, str]]:
    """Column to our text and the paper's, for the cells of one row."""
    found = {state.cell.column: state.figure(table.figure) for state in states}
    best = _clear_best(table.figure, {column: figure for column, figure in found.items() if figure})
    return {
        state.cell.column: (
            _our_text(state, table.figure, experiment.seeds, state.cell.column == best, read),
            _paper_text(table, state.cell),
        )
        for state in states
    }


def _lay_out(
    experiment: Experiment, table: Table, states: Sequence[CellRuns], read: Read
) -> list[str]:
    """Lines of a table: the paper's figures beside ours, or below ours if there are many columns.

    Without the paper's, many columns are the lines of the table.
    """
    found = list(by_row(experiment, states))
    labels = [label for label, _ in found]
    rows = [_table_row(experiment, table, cells, read) for _, cells in found]
    shown = [c for c in experiment.columns if any(c in cells for cells in rows)]
    papers = {state.cell.column for state in states if state.cell.name in table.paper}
    none = ("", "")
    if papers and len(shown) > MOST_SIDE_BY_SIDE:
        columns = [["", *(text for label in labels for text in (label, ""))]]
        columns += [["", *("ours", "paper") * len(rows)]]
        for column in shown:
            texts = [text for cells in rows for text in cells.get(column, none)]
            columns += [[escape(experiment.columns[column]), *texts]]
        return table_lines(columns, right=[i > 1 for i in range(len(columns))])
    if len(shown) > MOST_COLUMNS and not papers:
        columns = [["", *(escape(experiment.columns[column]) for column in shown)]]
        for label, cells in zip(labels, rows, strict=True):
            columns += [[label, *(cells.get(column, none)[0] for column in shown)]]
        return table_lines(columns)
    columns = [["", *labels]]
    for column in shown:
        ours, paper = zip(*(cells.get(column, none) for cells in rows), strict=True)
        columns += [[escape(experiment.columns[column]), *ours]]
        columns += [["paper", *paper]] if column in papers else []
    return table_lines(columns)


def _write_csv(path: Path, table: Table, states: Sequence[CellRuns]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for state in states:
        found = state.figure(table.figure)
        numbers = (found.mean, found.stderr, found.count) if found else (None, None, 0)
        counts = (len(state.finished), state.diverged, len(state.failed))
        paper = table.paper.get(state.cell.name, ("", ""))
        paper = ("diverged", "") if paper == (None, None) else paper
        writer.writerow([state.cell.row, state.cell.column, *numbers, *counts, *paper])
    with atomic_file(path) as file:
        file.write(text.getvalue().encode())


def report_tables(
    experiment: Experiment, states: Sequence[CellRuns], out: Path, read: Read
) -> Iterator[str]:
    """Lines of the section; writes each table to out/FIGURE.csv too."""
    for table in experiment.tables:
        path = out / f"{table.figure}.csv"
        _write_csv(path, table, states)
        yield from (f"## {escape(table.title)}", "")
        yield from _lay_out(experiment, table, states, read)
        yield from ("", f"Plain numbers: [{path.name}]({quote(path.name)})", "")
    if experiment.tables:
        yield from (
            f"Mean ± standard error over the seeds; in brackets the number of seeds where it is not "
            f"{experiment.seeds}. Bold is the best of ours in a row, if all have as many seeds and it leads "
            "by more than its standard error and the other's together.",
            "",
        )
