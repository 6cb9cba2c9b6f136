"""report.md of a run: its figures, how they came about, pictures. Reads well as plain text too."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from sslortho.atomic import atomic_file
from sslortho.evaluate.figures import Picture, Table

WIDEST = 60
"""Characters up to which a column is padded, so that one long path does not stretch every row."""


class ReportFigure(NamedTuple):
    """One number; with unit "%" it has two decimals."""

    name: str
    value: float | int | None
    unit: str = ""
    meaning: str = ""


def escape(text: str) -> str:
    """`text` so that Markdown shows it as it is, on one line, in a table too.

    An underscore between letters or digits means nothing to Markdown and stays as it is.
    """
    line = " ".join(text.split())
    line = re.sub(r"([\\`*|<\[\]~$])", r"\\\1", line)
    line = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)
    line = re.sub(r"&(?=#?\w+;)", r"\\&", line)
    # what begins a heading, a quotation, a list or a rule
    return re.sub(r"^(?=[#>+=-])|^\d+(?=[.)](\s|$))", r"\g<0>\\", line)


def format_value(value: Any, unit: str = "") -> str:
    """A value in words: "-" for None and what is not finite, two decimals for unit "%"."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | int):
        text = (
            f"{value:.2f}" if unit == "%" else f"{value:.5g}" if isinstance(value, float) else value
        )
        return f"{text} {escape(unit)}".rstrip()
    return escape(str(value))


def _line_up(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Lines of a table whose first row is its header; columns padded, to the `right` if so told."""
    widths = [max(3, min(WIDEST, max(map(len, column)))) for column in zip(*rows, strict=True)]
    columns = list(zip(widths, right, strict=True))
    lines = [
        "| " + " | ".join(cell.rjust(w) if r else cell.ljust(w)
                          for cell, (w, r) in zip(row, columns, strict=True)) + " |"
        for row in rows
    ]  # fmt: skip
    rule = "|".join("-" * (w + 1) + (":" if r else "-") for w, r in columns)
    return [lines[0], f"|{rule}|", *lines[1:], ""]


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    right = [
        all(value is None or isinstance(value, float | int) for value in column)
        for column in zip(*rows, strict=True)
    ]
    cells = [[escape(name) for name in header], *(list(map(format_value, row)) for row in rows)]
    return _line_up(cells, right or [False] * len(header))


def _figures(figures: Sequence[ReportFigure]) -> list[str]:
    cells = [("figure", "value", "meaning")]
    cells += [(escape(f.name), format_value(f.value, f.unit), escape(f.meaning)) for f in figures]
    return _line_up(cells, (False, True, False))


def _settings(settings: Mapping[str, Any]) -> list[str]:
    def exact(value: Any) -> str:  # where a figure is rounded
        finite = isinstance(value, float) and math.isfinite(value)
        return f"{value:.12g}" if finite else format_value(value)

    rows = [(escape(name), exact(value)) for name, value in settings.items()]
    return _line_up([("option", "value"), *rows], (False, False))


def _machine(versions: Mapping[str, str], hardware: str) -> list[str]:
    lines = ["## Machine", ""] if versions or hardware else []
    if hardware:
        lines += [escape(hardware), ""]
    if versions:
        lines += [escape(", ".join(f"{name} {version}" for name, version in versions.items())), ""]
    return lines


def _picture(folder: Path, path: Path, caption: str) -> list[str]:
    link = quote(Path(os.path.relpath(path, folder)).as_posix())
    return [escape(caption), "", f"![{escape(path.stem)}]({link})", ""]


def _code(text: str) -> list[str]:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [f"{fence}bash", text, fence, ""]


def write_report(
    path: Path,
    *,
    title: str,
    figures: Sequence[ReportFigure],
    settings: Mapping[str, Any],
    notes: Sequence[str] = (),
    pictures: Sequence[Picture] = (),
    tables: Sequence[Table] = (),
    command: str = "",
    versions: Mapping[str, str] | None = None,
    hardware: str = "",
) -> None:
    """Write a run's report.md, whole or not at all. Empty parts are left out.

    All text is plain: what means something to Markdown is escaped. Figures, pictures and tables may
    be plain tuples in the order of their fields.

    Args:
        path: report.md; pictures are linked relative to its folder.
        title: the headline.
        figures: a row each: name, value with unit, meaning.
        settings: options by name.
        notes: the protocol in words, a point a line.
        pictures: below each other, in this order.
        tables: after the pictures; floats have five significant digits.
        command: the command line that gives these figures.
        versions: of the software, by name.
        hardware: in words.
    """
    lines = [f"# {escape(title)}", "", *_figures([ReportFigure(*figure) for figure in figures])]
    if notes:
        lines += ["## Protocol", "", *(f"- {escape(note)}" for note in notes), ""]
    if pictures:
        lines += ["## Pictures", ""]
    for file, caption in pictures:
        lines += _picture(path.parent, file, caption)
    for heading, header, rows in tables:
        lines += [f"## {escape(heading)}", "", *_table(header, rows)]
    if command:
        lines += ["## Command", "", *_code(command)]
    if settings:
        lines += ["## Settings", "", *_settings(settings)]
    lines += _machine(versions or {}, hardware)
    with atomic_file(path) as report:
        report.write("\n".join(lines).encode())
