"""Markdown: escaped text, and tables that read well as plain text too."""

import re
from collections.abc import Sequence


def escape(text: str, *, begins_line: bool = False) -> str:
    """`text` so that Markdown shows it as it is, on one line, in a cell of a table too.

    An underscore between letters or digits has no meaning in Markdown and stays as it is.

    Args:
        text: plain; line breaks become blanks.
        begins_line: also escape the beginning of a heading, a quotation, a list or a rule.
    """
    line = " ".join(text.split())
    line = re.sub(r"([\\`*|<\[\]~$])", r"\\\1", line)
    line = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)
    line = re.sub(r"&(?=#?\w+;)", r"\\&", line)
    if not begins_line:
        return line
    return re.sub(r"^(?=[#>+=-])|^\d+(?=[.)](\s|$))", r"\g<0>\\", line)


def table_lines(
    columns: Sequence[Sequence[str]],
    right: Sequence[bool] | None = None,
    widest: int | None = None,
) -> list[str]:
    """Lines of a table, its columns padded to line up.

    Args:
        columns: header and cells of each, escaped already.
        right: whether a column is aligned to the right. Default: all but the first.
        widest: characters up to which a column is padded, so that one long path does not stretch
            every row. Default: any number.
    """
    right = [i > 0 for i in range(len(columns))] if right is None else right
    widths = [max(3, *map(len, column)) for column in columns]
    widths = [width if widest is None else min(widest, width) for width in widths]
    layout = list(zip(widths, right, strict=True))
    lines = []
    for row in zip(*columns, strict=True):
        cells = [
            cell.rjust(width) if to_the_right else cell.ljust(width)
            for cell, (width, to_the_right) in zip(row, layout, strict=True)
        ]
        lines.append(f"| {' | '.join(cells)} |")
    rule = ["-" * (width + 1) + (":" if to_the_right else "-") for width, to_the_right in layout]
    return [lines[0], f"|{'|'.join(rule)}|", *lines[1:]]


def code_lines(text: str, language: str) -> list[str]:
    """Lines of a code block, whatever backticks the text holds."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", text, fence]
