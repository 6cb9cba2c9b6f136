"""Parts of an experiment's file: tables, plots, the search of rates, the baseline."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sslortho.options import nearest
from sslortho.paper.grid import Cell, PaperFigure, Plot, Reach, Search, Table


def check_keys(where: str, given: Mapping[str, Any], known: Iterable[str], needed: str) -> None:
    """Raise ValueError for a key that is unknown, or one of `needed` (with spaces between) that is missing."""
    known = list(known)
    for key in given:
        if key not in known:
            raise ValueError(
                f"{where}: unknown key {key!r}{nearest(str(key), known)}; known are {', '.join(known)}"
            )
    for key in needed.split():
        if key not in given:
            raise ValueError(f"{where}: {key} is missing")


def check_names(where: str, given: Iterable[str], known: Iterable[str], kind: str) -> None:
    """Raise ValueError for the first name that is not known; kind: the word for one, such as row."""
    known = list(known)
    for name in given:
        if name not in known:
            raise ValueError(f"{where}: {name!r} is not a {kind}{nearest(name, known)}")


NUMBER = r"(\d+(?:\.\d+)?)"


def parse_figure(text: Any) -> PaperFigure:
    """Mean and error from the text of a file: "73.60 ± 0.19", 61.9 or diverged.

    Raises ValueError for anything else.
    """
    if text == "diverged":
        return None, None
    found = re.fullmatch(rf"{NUMBER}(?: ± {NUMBER})?", str(text))
    if found is None:
        raise ValueError(f"{text!r} must be MEAN ± ERROR, a number, diverged, or null for none")
    return float(found[1]), float(found[2]) if found[2] else None


def read_table(
    path: Path, entry: Mapping[str, Any], columns: Sequence[str], cells: Sequence[Cell]
) -> Table:
    """A table of an entry of `tables`, for the columns and cells that there are. Raises ValueError."""
    check_keys(f"{path}: tables", entry, ("title", "figure", "paper"), "title figure")
    where = f"{path}: {entry['title']}"
    names = {cell.name for cell in cells}
    paper: dict[str, PaperFigure] = {}
    for row, figures in (entry.get("paper") or {}).items():
        check_names(where, [row], {cell.row: None for cell in cells}, "row")
        if not isinstance(figures, list) or len(figures) != len(columns):
            raise ValueError(
                f"{where}, {row}: needs a list of {len(columns)} figures, one for each of "
                f"{', '.join(columns)}"
            )
        for column, figure in zip(columns, figures, strict=True):
            if figure is None:
                continue
            if f"{row}-{column}" not in names:
                raise ValueError(f"{where}: {row}-{column} is left out, yet has a figure")
            try:
                paper[f"{row}-{column}"] = parse_figure(figure)
            except ValueError as error:
                raise ValueError(f"{where}, {row}-{column}: {error}") from error
    return Table(entry["title"], entry["figure"], paper)


def read_plot(path: Path, entry: Mapping[str, Any], cells: Sequence[Cell]) -> Plot:
    """A plot of an entry of `plots`. Raises ValueError."""
    known = ("name", "title", "quantity", "x", "rows", "columns")
    check_keys(f"{path}: plots", entry, known, "name title quantity")
    where = f"{path}: plot {entry['name']}"
    x = entry.get("x", "epoch")
    if x not in ("epoch", "step"):
        raise ValueError(f"{where}: x={x!r} must be epoch or step")
    rows = entry.get("rows") or list(dict.fromkeys(cell.row for cell in cells))
    columns = entry.get("columns") or list(dict.fromkeys(cell.column for cell in cells))
    check_names(where, rows, {cell.row: None for cell in cells}, "row")
    check_names(where, columns, {cell.column: None for cell in cells}, "column")
    chosen = [cell.name for cell in cells if cell.row in rows and cell.column in columns]
    return Plot(entry["name"], entry["title"], entry["quantity"], tuple(chosen), x)


SEARCHED = ("lr", "momentum", "orth_momentum", "beta1")
"""Hyperparameters that a search may have."""


def read_search(path: Path, content: Mapping[str, Any], cells: Sequence[Cell]) -> Search | None:
    """The search of the key `search`; None without one. Raises ValueError."""
    entry = content.get("search")
    if entry is None:
        return None
    where = f"{path}: search"
    known = ("trials", "objective", "maximise", "seed", "options", "start")
    check_keys(where, entry, known, "trials objective seed start")
    trials, seed = entry["trials"], entry["seed"]
    if not isinstance(trials, int) or trials < 3:
        raise ValueError(f"{where}: trials={trials!r} must be a whole number from 3")
    if not isinstance(seed, int) or seed < content.get("seeds", 1):
        raise ValueError(
            f"{where}: seed={seed!r} must be none of the runs' seeds; give a larger one"
        )
    start = entry["start"]
    check_names(
        f"{where}: start",
        start,
        [*(c.column for c in cells), *(c.name for c in cells)],
        "column or cell",
    )
    for key, values in start.items():
        check_keys(f"{where}: start, {key}", values, SEARCHED, "lr")
        for name, value in values.items():
            right = isinstance(value, int | float) and (
                value > 0 if name == "lr" else 0 < value < 1
            )
            if not right:
                least = "above 0" if name == "lr" else "above 0 and below 1"
                raise ValueError(f"{where}: start, {key}: {name}={value!r} must be {least}")
    for cell in cells:
        if cell.name not in start and cell.column not in start:
            raise ValueError(f"{where}: start has neither {cell.column} nor {cell.name}")
    return Search(
        trials=trials,
        objective=entry["objective"],
        maximise=entry.get("maximise", True),
        seed=seed,
        options=entry.get("options", {}),
        start=start,
    )


PAPER_REACH = Reach(
    "sgd",
    "accuracy",
    ("orth_sgd",),
    'The paper: it "can take less than 5% of the number of epochs" (section 4.4).',
)


def read_reach(path: Path, entry: Mapping[str, Any] | None, columns: Sequence[str]) -> Reach | None:
    """The baseline of the key `reach`, or the paper's; None without one. Raises ValueError."""
    if entry is None:
        return PAPER_REACH if {"sgd", "orth_sgd"} <= set(columns) else None
    where = f"{path}: reach"
    check_keys(where, entry, ("baseline", "quantity"), "baseline quantity")
    check_names(where, [entry["baseline"]], columns, "column")
    others = tuple(column for column in columns if column != entry["baseline"])
    return Reach(entry["baseline"], entry["quantity"], others)
