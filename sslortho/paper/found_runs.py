"""How the runs of an experiment stand, told from their folders and logs."""

import fcntl
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslortho.runs.comparison import Run, Statistic, statistic
from sslortho.paper.grid import Cell, Experiment
from sslortho.paper.plots import Read, find_by_seed, is_number
from sslortho.runs.tables import escape

LOG_LINES, LOG_BYTES, LOG_WIDTH = 5, 1 << 16, 300
"""Of a failed run's log: the last lines shown, the bytes they are looked for in, and their length."""

STOPPED = "the same command resumes"
"""What a run says at last that was asked to stop (train/run_folder.py)."""


@dataclass(frozen=True)
class CellRuns:
    """How the runs of a cell stand."""

    cell: Cell
    finished: Sequence[Run]
    """Those that diverged too."""
    under_way: Sequence[Path]
    """Their folders."""
    stopped: Sequence[Path]
    """Folders of those that a signal stopped; they can be resumed."""
    failed: Sequence[Path]
    """Logs of those that ended otherwise without a summary."""

    @property
    def diverged(self) -> int:
        """How many of the finished."""
        return sum(run.summary.get("diverged") is True for run in self.finished)

    def figure(self, name: str) -> Statistic | None:
        """Of the finished that have it."""
        values = [run.summary.get(name) for run in self.finished if not run.summary.get("diverged")]
        numbers = [float(value) for value in values if is_number(value)]
        return statistic(numbers) if numbers else None


def _read_summary(folder: Path) -> dict[str, Any] | None:
    try:
        summary = json.loads((folder / "summary.json").read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(summary, dict):
        return None
    config = summary.get("config")
    return {**summary, "config": config if isinstance(config, dict) else {}}


def last_lines(log: Path) -> list[str]:
    """Of a log; a progress bar is a line each time it is drawn."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = [line.rstrip()[:LOG_WIDTH] for line in text.splitlines()]
    return [line for line in lines if line][-LOG_LINES:]


def is_held(log: Path) -> bool:
    """Whether a run is writing this log: the runner has it locked for as long as the run lives."""
    try:
        with log.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _standing(folder: Path | None, log: Path | None) -> str:
    """What has become of a run that has no summary."""
    if log is None:
        files = ("config.yaml", "metrics.jsonl")
        begun = folder is not None and any((folder / name).exists() for name in files)
        return "under_way" if begun else "not_begun"
    if is_held(log):
        return "under_way"
    stopped = folder is not None and any(STOPPED in line for line in last_lines(log))
    return "stopped" if stopped else "failed"


def find_runs(experiment: Experiment, out: Path) -> list[CellRuns]:
    """How the runs of each cell stand in out/runs and out/logs."""
    states = []
    for cell in experiment.cells:
        folders = find_by_seed(out / "runs", cell)
        logs = find_by_seed(out / "logs", cell, ".log")
        found: dict[str, list[Any]] = defaultdict(list)
        for seed in sorted({*folders, *logs}):
            folder, log = folders.get(seed), logs.get(seed)
            if folder and (summary := _read_summary(folder)) is not None:
                found["finished"].append(Run(str(folder), summary))
                continue
            standing = _standing(folder, log)
            found[standing].append(log if standing == "failed" else folder or out)
        names = ("finished", "under_way", "stopped", "failed")
        states.append(CellRuns(cell, *(found[name] for name in names)))
    return states


def count_states(states: Sequence[CellRuns], seeds: int) -> str:
    """In words, of all runs; `seeds` of each cell are wanted."""
    kinds = ("finished", "under_way", "stopped", "failed")
    counts = {kind: sum(len(getattr(state, kind)) for state in states) for kind in kinds}
    total = sum(max(seeds, sum(len(getattr(state, kind)) for kind in kinds)) for state in states)
    diverged = sum(state.diverged for state in states)
    text = f"{counts['finished']} of {total} runs finished"
    text += f" ({diverged} of them diverged)" if diverged else ""
    text += f", {counts['under_way']} under way"
    text += f", {counts['stopped']} stopped" if counts["stopped"] else ""
    return f"{text}, {counts['failed']} failed."


def by_row(
    experiment: Experiment, states: Sequence[CellRuns]
) -> Iterator[tuple[str, list[CellRuns]]]:
    """Label and cells of each row that has any."""
    for row, label in experiment.rows.items():
        if found := [state for state in states if state.cell.row == row]:
            yield escape(label), found


def tell_progress(folder: Path, cell: Cell, read: Read) -> tuple[int, str]:
    """Finished epochs of a run under way, and in words."""
    records = read(folder)
    epoch = int(records[-1]["epoch"]) if records else 0
    try:
        text = (folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^epochs:\s*(\d+)\s*$", text, re.MULTILINE)
    return epoch, f"epoch {epoch}" + (f" of {found[1]}" if found else "")
