"""Figures without a display, and picture files that are whole or not there."""

from pathlib import Path
from typing import Any

from sslortho.atomic import atomic_file

DPI = 120

COLOURS = ("#332288", "#DDCC77", "#117733", "#CC6677", "#88CCEE",
           "#882255", "#44AA99", "#000000", "#AA4499", "#999933")  # fmt: skip
"""Told apart by the colour-blind: Paul Tol's muted scheme (Colour Schemes, SRON/EPS/TN/09-002), and
black."""
MARKERS = "o^sPDvX*<"
"""With COLOURS 90 pairs, 9 and 10 having no common factor: things are told by shape as well."""
GREY = "#9a9a9a"


def new_figure(width: float, height: float) -> Any:
    """A matplotlib Figure of so many inches, laid out so that no label is cut off."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure in the format of the path's suffix (png, pdf, svg, ...); a pixel is 1/120 inch.

    Raises ValueError for a suffix that matplotlib does not write.
    """
    kind, known = path.suffix[1:].lower(), figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise ValueError(f"path={str(path)!r} must end in one of .{', .'.join(sorted(known))}")
    with atomic_file(path) as file:
        figure.savefig(file, format=kind, dpi=DPI)


def plain_text(text: str, most: int) -> str:
    """`text` on one line of at most so many characters, with nothing that matplotlib interprets."""
    line = " ".join(text.split())
    short = line if len(line) <= most else line[: most - 1].rstrip() + "…"
    return short.replace("$", r"\$")
