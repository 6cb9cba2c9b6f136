"""report.md of a run: its figures, how they came about, pictures."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from sslortho.atomic import atomic_file
from sslortho.evaluate.figures import Picture, Table
from sslortho.runs.markdown import code_lines, escape, table_lines

WIDEST = 60
"""Characters up to which a column is padded, so that one long path does not stretch every row."""


class ReportFigure(NamedTuple):
    """One number; with unit "%" it has two decimals."""

    name: str
    value: float | int | None
    unit: str = ""
    meaning: str = ""


def _plain(text: str) -> str:
    return escape(text, begins_line=True)


def format_value(value: Any, unit: str = "") -> str:
    """A value in words: "-" for None, nan and inf; two decimals for unit "%"."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | int):
        text = (
            f"{value:.2f}" if unit == "%" else f"{value:.5g}" if isinstance(value, float) else value
        )
        return f"{text} {_plain(unit)}".rstrip()
    return _plain(str(value))


def _line_up(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Lines of a table whose first row is its header."""
    return [*table_lines(list(zip(*rows, strict=True)), right, WIDEST), ""]


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    right = [
        all(value is None or isinstance(value, float | int) for value in column)
        for column in zip(*rows, strict=True)
    ]
    cells = [[_plain(name) for name in header], *(list(map(format_value, row)) for row in rows)]
    return _line_up(cells, right or [False] * len(header))


def _figures(figures: Sequence[ReportFigure]) -> list[str]:
    cells = [("figure", "value", "meaning")]
    cells += [(_plain(f.name), format_value(f.value, f.unit), _plain(f.meaning)) for f in figures]
    return _line_up(cells, (False, True, False))


def _settings(settings: Mapping[str, Any]) -> list[str]:
    def exact(value: Any) -> str:  # where a figure is rounded
        finite = isinstance(value, float) and math.isfinite(value)
        return f"{value:.12g}" if finite else format_value(value)

    rows = [(_plain(name), exact(value)) for name, value in settings.items()]
    return _line_up([("option", "value"), *rows], (False, False))


def _machine(versions: Mapping[str, str], hardware: str) -> list[str]:
    lines = ["## Machine", ""] if versions or hardware else []
    if hardware:
        lines += [_plain(hardware), ""]
    if versions:
        lines += [_plain(", ".join(f"{name} {version}" for name, version in versions.items())), ""]
    return lines


def _picture(folder: Path, path: Path, caption: str) -> list[str]:
    link = quote(Path(os.path.relpath(path, folder)).as_posix())
    return [_plain(caption), "", f"![{_plain(path.stem)}]({link})", ""]


def write_report(
    path: Path,
    *,
    title: str,
    figures: Sequence[ReportFigure],
    settings: Mapping[str, Any],
    lead: Sequence[str] = (),
    notes: Sequence[str] = (),
    pictures: Sequence[Picture] = (),
    tables: Sequence[Table] = (),
    command: str = "",
    versions: Mapping[str, str] | None = None,
    hardware: str = "",
) -> None:
    """Write a run's report.md, whole or not at all. Empty parts are left out.

    All text is plain and gets escaped. Figures, pictures and tables may
    be plain tuples in the order of their fields.

    Args:
        path: report.md; pictures are linked relative to its folder.
        title: the headline.
        figures: a row each: name, value with unit, meaning.
        settings: options by name.
        lead: below the headline, a point a line.
        notes: the protocol in words, a point a line.
        pictures: below each other, in this order.
        tables: after the pictures; floats have five significant digits.
        command: the command line that gives these figures.
        versions: of the software, by name.
        hardware: in words.
    """
    lines = [f"# {_plain(title)}", ""]
    if lead:
        lines += [*(f"- {_plain(point)}" for point in lead), ""]
    lines += _figures([ReportFigure(*figure) for figure in figures])
    if notes:
        lines += ["## Protocol", "", *(f"- {_plain(note)}" for note in notes), ""]
    if pictures:
        lines += ["## Pictures", ""]
    for file, caption in pictures:
        lines += _picture(path.parent, file, caption)
    for heading, header, rows in tables:
        lines += [f"## {_plain(heading)}", "", *_table(header, rows)]
    if command:
        lines += ["## Command", "", *code_lines(command, "bash"), ""]
    if settings:
        lines += ["## Settings", "", *_settings(settings)]
    lines += _machine(versions or {}, hardware)
    with atomic_file(path) as report:
        report.write("\n".join(lines).encode())
