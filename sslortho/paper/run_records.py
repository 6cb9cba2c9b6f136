"""Records of an experiment's runs: found by seed, read, and turned into points of a curve."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from sslortho.paper.grid import Cell
from sslortho.runs.folder import RunFolder

Record = Mapping[str, Any]
Read = Callable[[Path], Sequence[Record]]

EVALUATIONS = {"accuracy": ("val_top1", "top1"), "evaluation_loss": ("val_loss", "test_loss")}
"""Quantity to its two names in metrics.jsonl: for held-out images, and for the test images."""


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Content of a run's summary.json, with its options under "config"; None if it is missing or damaged."""
    summary = RunFolder(folder).read_summary()
    if summary is None:
        return None
    config = summary.get("config")
    return {**summary, "config": config if isinstance(config, dict) else {}}


def read_records(folder: Path) -> list[Record]:
    """Read a run's metrics.jsonl. Truncated lines are left out; a missing file has no records."""
    try:
        lines = (folder / "metrics.jsonl").read_bytes().decode(errors="replace").splitlines()
    except OSError:
        return []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and all(is_number(record.get(n)) for n in ("step", "epoch")):
            records.append(record)
    return records


def find_by_seed(folder: Path, cell: Cell, suffix: str = "") -> dict[int, Path]:
    """Paths named after the runs of a cell, by seed: run folders, or files with a suffix."""
    pattern = re.compile(re.escape(cell.name) + r"-s(\d+)" + re.escape(suffix))
    paths = folder.iterdir() if folder.is_dir() else ()
    found = ((pattern.fullmatch(path.name), path) for path in paths)
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def recorded_name(records: Sequence[Record], quantity: str) -> str:
    """Name of a quantity in these records."""
    held_out, tested = EVALUATIONS.get(quantity, (quantity, quantity))
    return held_out if any(held_out in record for record in records) else tested


def run_points(records: Sequence[Record], name: str, x: str) -> dict[float, float]:
    """Values of one run by `x`, "epoch" or "step".

    By epoch, an evaluation stands at the number of finished epochs. The training records of an epoch
    are averaged, weighted by the steps that each covers, and stand at its end: those of the first at 1.
    """
    points: dict[float, float] = {}
    sums: dict[int, tuple[float, int]] = {}
    last = 0
    for record in records:
        if name not in record:
            continue
        step, epoch, value = int(record["step"]), record["epoch"], record[name]
        training = "loss" in record  # evaluations have none
        steps, last = max(1, step - last), step
        if not is_number(value):
            continue
        if x == "step" or not training:
            points[step if x == "step" else epoch] = value
        else:
            total, weight = sums.get(epoch, (0.0, 0))
            sums[epoch] = total + value * steps, weight + steps
    return points | {epoch + 1: total / weight for epoch, (total, weight) in sums.items()}
