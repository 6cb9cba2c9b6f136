"""Runs of an experiment as they are found on disk: finished, under way, stopped or failed."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslortho.paper.grid import Cell, Experiment
from sslortho.paper.run_records import Read, find_by_seed, is_number, read_summary
from sslortho.paper.tuning import FOLDER as TRIALS
from sslortho.runs.lock import is_held
from sslortho.runs.markdown import escape
from sslortho.runs.several.comparison import Statistic, statistic
from sslortho.runs.several.identity import Run
from sslortho.runs.status import read_status


@dataclass(frozen=True)
class CellRuns:
    """Runs of a cell by their state."""

    cell: Cell
    finished: Sequence[Run]
    """Includes those that diverged."""
    under_way: Sequence[Path]
    """Folders of those that run now."""
    stopped: Sequence[Path]
    """Folders of those that a signal stopped; they can resume."""
    failed: Sequence[Path]
    """Logs of those that ended in any other way; a run that was started by hand has none."""

    @property
    def diverged(self) -> int:
        """Number of finished runs that diverged."""
        return sum(run.summary.get("diverged") is True for run in self.finished)

    def figure(self, name: str) -> Statistic | None:
        """Mean and error over the finished runs that have the figure and did not diverge."""
        values = [run.summary.get(name) for run in self.finished if not run.summary.get("diverged")]
        numbers = [float(value) for value in values if is_number(value)]
        return statistic(numbers) if numbers else None


def _find_state(folder: Path | None, log: Path | None) -> str:
    """State of a run without a summary, by its status.json and by the log that it keeps locked."""
    status = read_status(folder) if folder is not None else None
    state = status.state if status is not None else None
    if state == "running" or (log is not None and is_held(log)):
        return "under_way"
    if state == "stopped":
        return "stopped"
    if state is not None or log is not None:
        return "failed"
    # started by hand, by a version that wrote no status.json
    files = ("config.yaml", "metrics.jsonl")
    begun = folder is not None and any((folder / name).exists() for name in files)
    return "under_way" if begun else "not_begun"


def find_runs(experiment: Experiment, out: Path) -> list[CellRuns]:
    """Find the runs of each cell in out/runs and out/logs."""
    states = []
    for cell in experiment.cells:
        folders = find_by_seed(out / "runs", cell)
        logs = find_by_seed(out / "logs", cell, ".log")
        found: dict[str, list[Any]] = defaultdict(list)
        for seed in sorted({*folders, *logs}):
            folder, log = folders.get(seed), logs.get(seed)
            if folder and (summary := read_summary(folder)) is not None:
                found["finished"].append(Run(str(folder), summary))
                continue
            state = _find_state(folder, log)
            name = f"{cell.name}-s{seed}"
            path = out / "logs" / f"{name}.log" if state == "failed" else out / "runs" / name
            found[state].append(path)
        names = ("finished", "under_way", "stopped", "failed")
        states.append(CellRuns(cell, *(found[name] for name in names)))
    return states


def count_states(states: Sequence[CellRuns], seeds: int) -> str:
    """Number of runs in each state, in words; each cell should have `seeds` runs."""
    kinds = ("finished", "under_way", "stopped", "failed")
    counts = {kind: sum(len(getattr(state, kind)) for state in states) for kind in kinds}
    total = sum(max(seeds, sum(len(getattr(state, kind)) for kind in kinds)) for state in states)
    diverged = sum(state.diverged for state in states)
    text = f"{counts['finished']} of {total} runs finished"
    text += f" ({diverged} of them diverged)" if diverged else ""
    text += f", {counts['under_way']} under way"
    text += f", {counts['stopped']} stopped" if counts["stopped"] else ""
    return f"{text}, {counts['failed']} failed."


def count_precisions(experiment: Experiment, out: Path) -> Counter[str]:
    """Number of finished runs and trials of the cells by their mixed_precision, where they tell it."""
    names, found = {cell.name for cell in experiment.cells}, Counter[str]()
    for folder in sorted((*(out / TRIALS).glob("*"), *(out / "runs").glob("*"))):
        if "-".join(folder.name.split("-")[:2]) in names and (summary := read_summary(folder)):
            precision = summary["config"].get("mixed_precision")
            found.update([] if precision is None else [str(precision)])
    return found


def show_precisions(found: Mapping[str, int]) -> str:
    """Precisions with the number of their runs and trials, in words."""
    return ", ".join(f"{name} ({count})" for name, count in sorted(found.items()))


def by_row(
    experiment: Experiment, states: Sequence[CellRuns]
) -> Iterator[tuple[str, list[CellRuns]]]:
    """Label and cells of each row that has any cell."""
    for row, label in experiment.rows.items():
        if found := [state for state in states if state.cell.row == row]:
            yield escape(label), found


def tell_progress(folder: Path, cell: Cell, read: Read) -> tuple[int, str]:
    """Number of finished epochs of a run, as a number and in words."""
    records = read(folder)
    epoch = int(records[-1]["epoch"]) if records else 0
    try:
        text = (folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^epochs:\s*(\d+)\s*$", text, re.MULTILINE)
    return epoch, f"epoch {epoch}" + (f" of {found[1]}" if found else "")
