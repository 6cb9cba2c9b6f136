"""Results of growth.py: a file for each part, the table, and the plot."""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from sslortho.atomic import atomic_file

from .fit import describe

Rows = dict[int, dict[str, Any]]
"""Size to the figures of `part.measure`."""

HEADER = """\
| part | sizes | exponent of time | exponent of memory | at | seconds | MiB |
|---|---|---|---|---|---|---|"""

NOTE = """\
Time is processor time of all threads, the median of the rounds. Memory is the peak of the process beyond
what it held before. An exponent is the slope of log cost over log size, by least squares through the upper
half of the sizes; `-` where a cost was 0. `fitted`: no size as large was measured; the figure is that of the
largest one, times (size / largest) to the exponent."""


def read_rows(path: Path, settings: dict[str, Any]) -> Rows:
    """Figures of a part from its file; none if there is none, or it is of other settings."""
    try:
        content = json.loads(path.read_text())
        if content["settings"] != settings:
            return {}
        return {int(size): row for size, row in content["rows"].items()}
    except (OSError, ValueError, KeyError):
        return {}


def write_rows(path: Path, settings: dict[str, Any], rows: Rows) -> None:
    """Write the figures of a part, after each of its sizes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"settings": settings, "rows": rows})


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with atomic_file(path) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def _mib(size: float | None) -> str:
    return "-" if size is None else f"{size / 2**20:.0f}"


def _count(size: int) -> str:
    """A size in words that fit a table: 1281167 as 1.28M."""
    for unit, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if size >= unit:
            return f"{size / unit:.3g}{letter}"
    return str(size)


def describe_parts(report: dict[str, Any]) -> str:
    """The table in Markdown, with what breaks first below it."""
    lines = [HEADER]
    found = {}
    for name, part in report["parts"].items():
        rows = {int(size): row for size, row in part["rows"].items()}
        figures = found[name] = describe(rows, part["target"])
        sizes = f"{_count(min(rows))} to {_count(max(rows))} {part['unit']}"
        place = _count(part["target"]) + (" (fitted)" if figures["fitted"] else "")
        mark = " **more than linear**" if figures["beyond_linear"] else ""
        lines.append(
            f"| {name}: {part['what']} | {sizes} | {_number(figures['exponent'])}{mark} | "
            f"{_number(figures['memory_exponent'])} | {place} | {_number(figures['seconds'], '.3g')} | "
            f"{_mib(figures['peak_bytes'])} |"
        )
    slowest = max(found, key=lambda name: found[name]["seconds"] or 0)
    largest = max(found, key=lambda name: found[name]["peak_bytes"] or 0)
    steep = [name for name, figures in found.items() if figures["beyond_linear"]]
    lines += [
        "",
        NOTE,
        "",
        f"First to take too long: {slowest} ({_number(found[slowest]['seconds'], '.3g')} s). "
        f"First to take too much memory: {largest} ({_mib(found[largest]['peak_bytes'])} MiB). "
        f"Time grows more than linearly: {', '.join(steep) or 'none'}.",
    ]
    return "\n".join(lines)


def draw_plot(path: Path, report: dict[str, Any]) -> None:
    """Draw seconds and memory against size, a panel for each unit."""
    units = list(dict.fromkeys(part["unit"] for part in report["parts"].values()))
    figure, axes = plt.subplots(2, len(units), figsize=(4.5 * len(units), 7.5), squeeze=False)
    for column, unit in enumerate(units):
        parts = {name: part for name, part in report["parts"].items() if part["unit"] == unit}
        for row, (key, scale) in enumerate((("seconds", 1), ("peak_bytes", 2**20))):
            axis = axes[row][column]
            for number, (name, part) in enumerate(parts.items()):
                costs = {int(size): r[key] / scale for size, r in part["rows"].items() if r[key]}
                style = "-" if number < 10 else "--"  # there are ten colours
                axis.plot(list(costs), list(costs.values()), style, marker=".", label=name)
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_xlabel(unit)
            axis.set_ylabel(("processor seconds", "peak MiB")[row])
            axis.grid(alpha=0.3)
        axes[1][column].legend(
            fontsize=7, ncol=2, loc="upper center", bbox_to_anchor=(0.5, -0.15), frameon=False
        )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
