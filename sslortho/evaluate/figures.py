"""Figures without a display, picture files written atomically, and tuples that a report shows."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sslortho.atomic import atomic_file

DPI = 120

COLOURS = ("#332288", "#DDCC77", "#117733", "#CC6677", "#88CCEE",
           "#882255", "#44AA99", "#000000", "#AA4499", "#999933")  # fmt: skip
"""Colours that the colour-blind tell apart: Paul Tol's muted scheme (Colour Schemes,
SRON/EPS/TN/09-002), and black."""
MARKERS = "o^sPDvX*<"
"""Shapes of points. 10 colours and 9 shapes, in turn, give 90 different pairs: 9 and 10 have no common
factor."""
GREY = "#9a9a9a"


class Picture(NamedTuple):
    """A picture file and its caption."""

    path: Path
    caption: str


class Table(NamedTuple):
    """Rows of text and numbers below a title."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


def new_figure(width: float, height: float) -> Any:
    """A matplotlib Figure, its sides in inches, laid out so that no label is cut off."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def check_picture(path: Path, name: str, others: Collection[str] = ()) -> None:
    """Raise ValueError for a path whose suffix is no picture's.

    Args:
        path: of a picture to be written.
        name: of the argument.
        others: suffixes that are known beside matplotlib's, without the dot.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    known = {*FigureCanvasAgg.get_supported_filetypes(), *others}
    if path.suffix[1:].lower() not in known:
        raise ValueError(f"{name}={str(path)!r} must end in one of .{', .'.join(sorted(known))}")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure in the format of the path's suffix (png, pdf, svg, ...), 120 pixels an inch.

    Raises ValueError for a suffix that matplotlib does not write.
    """
    check_picture(path, "path")
    kind = path.suffix[1:].lower()
    with atomic_file(path) as file:
        figure.savefig(file, format=kind, dpi=DPI)


def plain_text(text: str, most: int) -> str:
    """`text` on one line of at most `most` characters, with nothing that matplotlib interprets."""
    line = " ".join(text.split())
    short = line if len(line) <= most else line[: most - 1].rstrip() + "…"
    return short.replace("$", r"\$")
