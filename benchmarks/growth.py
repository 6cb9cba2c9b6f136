"""Measure how costs grow: `python benchmarks/growth.py --out runs/growth`.

Time and peak memory of image sets (up to ImageNet's 1,281,167 images, made up), of evaluations, of the
optimizer and of checkpoints, each at several sizes, with the exponent of each. Each part's figures are
written at once; the same command goes on where it was stopped, on the same machine with the same versions.
"""

import shlex
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from growth_parts.options import GrowthOptions
from growth_parts.part import Part, measure
from growth_parts.registry import choose_parts, choose_sizes
from growth_parts.results import describe_parts, draw_plot, read_rows, write_json, write_rows
from sslortho.atomic import atomic_file
from sslortho.data import available_cores
from sslortho.recipes.command_line import parse_options, user_errors
from sslortho.runs.provenance import git_commit, machine, versions


@contextmanager
def _work_folder(options: GrowthOptions) -> Iterator[Path]:
    """Folder for made-up data; a temporary one is removed afterwards."""
    if options.work is None:
        with tempfile.TemporaryDirectory(prefix="growth-") as folder:
            yield Path(folder)
        return
    folder = Path(options.work)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def measure_part(name: str, part: Part, options: GrowthOptions, work: Path) -> dict[str, Any]:
    """Figures of a part, those that its file has already, and the others; a line for each size."""
    settings = {
        "what": part.what,
        "rounds": options.round_count,
        "machine": machine(),
        "versions": versions(),
    }
    path = Path(options.out) / "parts" / f"{name}.json"
    rows, sizes = read_rows(path, settings), choose_sizes(part, options)
    for size in sizes:
        kept = size in rows
        if not kept:
            rows[size] = measure(part, size, work, options.round_count)
            write_rows(path, settings, rows)
        seconds, peak = rows[size]["seconds"], rows[size]["peak_bytes"] / 2**20
        told = " (measured before)" if kept else ""
        print(f"{name}: {size} {part.unit}, {seconds:.3g} s, {peak:.0f} MiB{told}", file=sys.stderr)
    return {
        "what": part.what,
        "unit": part.unit,
        "target": part.target,
        "ranks": part.ranks,
        "rows": {size: rows[size] for size in sizes},
    }


def main() -> None:
    options = parse_options(GrowthOptions)
    warnings.filterwarnings("ignore", module=r"torch\b.*")
    with user_errors(options.debug):
        parts = choose_parts(options)
        out = Path(options.out)
        out.mkdir(parents=True, exist_ok=True)
        with _work_folder(options) as work:
            found = {name: measure_part(name, p, options, work) for name, p in parts.items()}
    report = {
        "parts": found,
        "rounds": options.round_count,
        "processor": f"{machine()['cpu']}, {available_cores()} cores, one thread for each process",
        "versions": versions(),
        "torch": torch.__version__,
        "commit": git_commit(),
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    write_json(out / "growth.json", report)
    table = describe_parts(report)
    with atomic_file(out / "growth.md") as file:
        file.write((table + "\n").encode())
    draw_plot(out / "growth.png", report)
    print(f"{table}\n\n{out}/growth.json, growth.md, growth.png")


if __name__ == "__main__":
    main()
