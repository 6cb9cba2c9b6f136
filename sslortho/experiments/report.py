"""report.md of an experiment: our figures beside the paper's, from whatever runs there are by now."""

import csv
import fcntl
import functools
import io
import json
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sslortho.atomic import atomic_file
from sslortho.experiments.comparison import NOT_COMPARED, Run, Statistic, identity, statistic
from sslortho.experiments.grid import Cell, Experiment, Table
from sslortho.experiments.plots import (
    Read,
    draw_plot,
    find_by_seed,
    is_number,
    plot_lines,
    read_records,
    recorded_name,
    run_points,
)
from sslortho.experiments.tables import ACCURACY, best_shown, escape, table_lines

MOST_SIDE_BY_SIDE = 3
"""Columns of an experiment that have room for the paper's beside them; of more, they are below."""

LOG_LINES, LOG_BYTES, LOG_WIDTH = 5, 1 << 16, 300
"""Of a failed run's log: the last lines shown, the bytes they are looked for in, and their length."""

STOPPED = "the same command resumes"
"""What a run says at last that was asked to stop (train/run_folder.py)."""

HEADER = ("row", "column", "mean", "stderr", "n", "finished", "diverged", "failed", "paper_mean",
          "paper_stderr")  # fmt: skip
"""Of a table as CSV."""

NO_OPTIONS = NOT_COMPARED | {"seed", "data_dir"}
"""Of a run, what may differ from the paper's."""
WHERE = frozenset({"out", "data_dir", "threads"})
"""What can be asked for that changes no result."""
ABSENT = "its default"
"""In place of a value that the experiment leaves to the script."""


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


def _is_held(log: Path) -> bool:
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
    if _is_held(log):
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


def _count_state(states: Sequence[CellRuns], seeds: int) -> str:
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


# -- the tables ------------------------------------------------------------------------------------


def _decimals(figure: str) -> int:
    """As the paper gives them."""
    return 2 if ACCURACY.search(figure) else 4


def _plus_minus(mean: float, stderr: float | None, decimals: int) -> tuple[str, str]:
    error = "" if stderr is None else f" ± {stderr:.{decimals}f}"
    return f"{mean:.{decimals}f}", error


def _paper_text(table: Table, cell: Cell) -> str:
    if cell.name not in table.paper:
        return "-"
    mean, stderr = table.paper[cell.name]
    if mean is None:
        return "diverged"
    return "".join(_plus_minus(mean, stderr, _decimals(table.figure)))


def _progress(folder: Path, cell: Cell, read: Read) -> tuple[int, str]:
    """Finished epochs of a run under way, and in words."""
    records = read(folder)
    epoch = int(records[-1]["epoch"]) if records else 0
    try:
        text = (folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^epochs:\s*(\d+)\s*$", text, re.MULTILINE)
    total = found[1] if found else cell.options.get("epochs")
    return epoch, f"epoch {epoch}" + ("" if total is None else f" of {total}")


def _our_text(state: CellRuns, figure: str, seeds: int, best: str | None, read: Read) -> str:
    found, diverged, finished = state.figure(figure), state.diverged, len(state.finished)
    if found:
        mean, error = _plus_minus(found.mean, found.stderr, _decimals(figure))
        text = (f"**{mean}**" if mean == best else mean) + error
        text += f" ({found.count})" if found.count != seeds else ""
        return text + (f", {diverged} of {finished} diverged" if diverged else "")
    if diverged:
        some = f" ({diverged})" if diverged != seeds else ""
        return "diverged" + some if diverged == finished else f"{diverged} of {finished} diverged"
    if finished:
        return "no figure"
    for begun, text in ((state.under_way, ""), (state.stopped, "stopped at ")):
        if begun:
            return text + max(_progress(folder, state.cell, read) for folder in begun)[1]
    return "failed" if state.failed else "-"


def _table_row(
    experiment: Experiment, table: Table, states: Sequence[CellRuns], read: Read
) -> dict[str, tuple[str, str]]:
    """Column to our text and the paper's, of the cells of one row."""
    found = {state.cell.name: state.figure(table.figure) for state in states}
    decimals = _decimals(table.figure)
    best = best_shown(table.figure, [f"{s.mean:.{decimals}f}" for s in found.values() if s])
    return {
        state.cell.column: (
            _our_text(state, table.figure, experiment.seeds, best, read),
            _paper_text(table, state.cell),
        )
        for state in states
    }


def _by_row(
    experiment: Experiment, states: Sequence[CellRuns]
) -> Iterator[tuple[str, list[CellRuns]]]:
    """Label and cells of each row that has any."""
    for row, label in experiment.rows.items():
        if found := [state for state in states if state.cell.row == row]:
            yield escape(label), found


def _lay_out(
    experiment: Experiment, table: Table, states: Sequence[CellRuns], read: Read
) -> list[str]:
    """The lines of a table: the paper's figures beside ours, or below where there are many columns."""
    found = list(_by_row(experiment, states))
    labels = [label for label, _ in found]
    rows = [_table_row(experiment, table, cells, read) for _, cells in found]
    shown = [c for c in experiment.columns if any(c in cells for cells in rows)]
    papers = {state.cell.column for state in states if state.cell.name in table.paper}
    none = ("", "")
    if papers and len(shown) > MOST_SIDE_BY_SIDE:
        columns = [["", *(text for label in labels for text in (label, ""))]]
        columns += [["", *("ours", "paper") * len(rows)]]
        for column in shown:
            texts = [text for cells in rows for text in cells.get(column, none)]
            columns += [[escape(experiment.columns[column]), *texts]]
        return table_lines(columns, left=2)
    columns = [["", *labels]]
    for column in shown:
        ours, paper = zip(*(cells.get(column, none) for cells in rows), strict=True)
        columns += [[escape(experiment.columns[column]), *ours]]
        columns += [["paper", *paper]] if column in papers else []
    return table_lines(columns, left=1)


def _write_csv(path: Path, table: Table, states: Sequence[CellRuns]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for state in states:
        found = state.figure(table.figure)
        numbers = (found.mean, found.stderr, found.count) if found else (None, None, 0)
        counts = (len(state.finished), state.diverged, len(state.failed))
        paper = table.paper.get(state.cell.name, ("", ""))
        paper = ("diverged", "") if paper == (None, None) else paper
        writer.writerow([state.cell.row, state.cell.column, *numbers, *counts, *paper])
    _write(path, text.getvalue())


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text.encode())


def _tables(
    experiment: Experiment, states: Sequence[CellRuns], out: Path, read: Read
) -> Iterator[str]:
    for table in experiment.tables:
        path = out / f"{table.figure}.csv"
        _write_csv(path, table, states)
        yield from (f"## {escape(table.title)}", "")
        yield from _lay_out(experiment, table, states, read)
        yield from ("", f"Plain numbers: [{path.name}]({quote(path.name)})", "")
    if experiment.tables:
        yield from (
            f"Mean ± standard error over the seeds; in brackets the number of seeds where it is not "
            f"{experiment.seeds}. The best mean of a row among ours is bold.",
            "",
        )


# -- the paper's claim -----------------------------------------------------------------------------


def _accuracy_curves(state: CellRuns, read: Read) -> tuple[str, list[dict[float, float]]]:
    """Name, and epoch to accuracy, of the finished runs that did not diverge."""
    curves, name = [], ""
    for run in state.finished:
        records = read(Path(run.folder))
        name = recorded_name(records, "accuracy")
        points = run_points(records, name, "epoch")
        if points and run.summary.get("diverged") is not True:
            curves.append(points)
    return name, curves


def epochs_to_reach(curve: Mapping[float, float], target: float) -> float | None:
    """The first epoch whose accuracy is `target` or above; None if there is none."""
    return min((epoch for epoch, value in curve.items() if value >= target), default=None)


def _reached_text(reached: Sequence[float | None], total: float) -> tuple[str, str]:
    """Epochs, and their share of all."""
    epochs = [epoch for epoch in reached if epoch is not None]
    if not epochs:
        return "not reached", "-"
    mean = statistic(epochs).mean
    missing = len(reached) - len(epochs)
    some = f", not reached by {missing} of {len(reached)}" if missing else ""
    return f"{mean:.3g}{some}", f"{100 * mean / total:.1f} %" if total else "-"


def _largest_gap(curves: Iterable[Mapping[float, float]]) -> float:
    """Epochs between two evaluations."""
    epochs = map(sorted, curves)
    return max((b - a for found in epochs for a, b in pairwise(found)), default=0)


def _speed(experiment: Experiment, states: Sequence[CellRuns], read: Read) -> Iterator[str]:
    lines, names, gap = [], set(), 0.0
    for label, found in _by_row(experiment, states):
        pair = {state.cell.column: _accuracy_curves(state, read) for state in found}
        (name, plain), (other, orth) = pair.get("sgd", ("", [])), pair.get("orth_sgd", ("", []))
        if not plain or not orth or name != other:
            continue
        target = statistic([curve[max(curve)] for curve in plain]).mean
        total = max(max(curve) for curve in plain)
        reached = [epochs_to_reach(curve, target) for curve in orth]
        lines.append((label, f"{target:.2f}", *_reached_text(reached, total), f"{total:g}"))
        names.add(name)
        gap = max(gap, _largest_gap(orth))
    if not lines:
        return
    sgd, orth_sgd = (escape(experiment.columns[name]) for name in ("sgd", "orth_sgd"))
    header = ("", f"{sgd}, at the end (%)", f"{orth_sgd}, epochs", "of all", "epochs in all")
    images = " of held-out images" if names == {"val_top1"} else ""
    every = f", every {gap:g} epochs" if gap > 1 else ""
    yield from (f"## Epochs that {orth_sgd} took to reach the final accuracy of {sgd}", "")
    yield from table_lines(list(zip(header, *lines, strict=True)), left=1)
    yield from ("", f"Mean over the seeds, from the evaluations{images} on the way{every}. The paper: it "
                "\"can take less than 5% of the number of epochs\" (section 4.4).", "")  # fmt: skip


# -- what differs, memory --------------------------------------------------------------------------


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b


def _names(cells: Iterable[str], all_cells: Sequence[str], most: int = 4) -> str:
    """Of some cells; nothing if they are all."""
    cells = list(dict.fromkeys(cells))
    if len(cells) == len(all_cells):
        return ""
    more = f" and {len(cells) - most} more" if len(cells) > most else ""
    return f" ({', '.join(cells[:most])}{more})"


def _differing_options(
    experiment: Experiment, states: Sequence[CellRuns], asked: Mapping[str, Any]
) -> list[str]:
    found: dict[tuple[str, str, str], list[str]] = {}
    for state in states:
        paper = {"data": experiment.data, "subset": None, **state.cell.options}
        for run in state.finished:
            extra = {name: ABSENT for name in asked if name not in paper and name in run.config}
            for name, value in {**paper, **extra}.items():
                ours = run.config.get(name)
                if name not in NO_OPTIONS and not _same(ours, value):
                    key = (name, _plain(ours), value if value is ABSENT else _plain(value))
                    found.setdefault(key, []).append(state.cell.name)
    with_runs = [state.cell.name for state in states if state.finished]
    return [
        f"- {escape(name)}: {escape(ours)} instead of {escape(paper)}{_names(cells, with_runs)}"
        for (name, ours, paper), cells in found.items()
    ]


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _mixed(states: Sequence[CellRuns]) -> Iterator[str]:
    """Of cells whose runs differ in more than the seed: their mean is of different things."""
    for state in states:
        options = [identity(run.config) for run in state.finished]
        names = dict.fromkeys(name for option in options for name in option)
        differing = [name for name in names if len({option.get(name) for option in options}) > 1]
        if differing:
            yield (f"- **the runs of {state.cell.name} differ from each other in "
                   f"{escape(', '.join(differing))}**")  # fmt: skip


def _differences(
    experiment: Experiment, states: Sequence[CellRuns], asked: Mapping[str, Any]
) -> Iterator[str]:
    yield from ("## What differs from the paper", "")
    counts = [len(state.finished) for state in states]
    lines = [*_differing_options(experiment, states, asked), *_mixed(states)]
    if not any(counts):
        yield from ("No run is finished yet.", "")
    elif any(count != experiment.seeds for count in counts):
        low, high = min(counts), max(counts)
        some = f"{low}" if low == high else f"{low} to {high}"
        lines.append(f"- seeds: {some} finished of each cell instead of {experiment.seeds}")
    elif not lines:
        yield from ("Nothing: the options of all runs and the number of seeds are the paper's.", "")
    yield from (*lines, *(f"- {note}" for note in experiment.notes), "")


def _multiple(state: CellRuns) -> str:
    """Bytes of parameters, gradients and the optimizer's state over those of the parameters."""
    for run in state.finished:
        size, buffers = (run.summary.get(n) for n in ("parameter_bytes", "optimizer_state_bytes"))
        if is_number(size) and size and is_number(buffers):
            return f"{2 + buffers / size:.2f}".rstrip("0").rstrip(".") + " n"
    return "-"


def _memory(experiment: Experiment, states: Sequence[CellRuns]) -> Iterator[str]:
    multiples = {state.cell.name: _multiple(state) for state in states}
    if len(set(multiples.values()) - {"-"}) < 2:
        return
    groups: dict[tuple[str, ...], list[str]] = {}
    for label, found in _by_row(experiment, states):
        known = {state.cell.column: multiples[state.cell.name] for state in found}
        values = tuple(known.get(column, "") for column in experiment.columns)
        if set(values) - {"-", ""}:
            groups.setdefault(values, []).append(label)
    labels = [
        "; ".join(g) if len(g) < 4 else f"{len(g)} rows, such as {g[0]}" for g in groups.values()
    ]
    columns = [[escape(label), *texts] for label, texts in
               zip(experiment.columns.values(), zip(*groups, strict=True), strict=True)]  # fmt: skip
    yield from ("## Memory", "")
    yield from table_lines([["", *labels], *columns], left=1)
    yield from (
        "",
        "n: the bytes of the parameters; these, their gradients and the optimizer's state.",
        "",
    )


# -- plots, failures, commands ---------------------------------------------------------------------


def _plots(experiment: Experiment, out: Path, read: Read) -> Iterator[str]:
    if experiment.plots:
        yield from ("## Plots", "", "Mean over the seeds; the bands are its standard error.", "")
    for plot in experiment.plots:
        lines = plot_lines(experiment, plot, out / "runs", read)
        if lines:
            path = out / f"{plot.name}.png"
            draw_plot(path, experiment, plot, lines)
            yield from (f"![{escape(plot.title)}]({quote(path.name)})", "")
        else:
            yield from (
                f"{escape(plot.title)}: no run has recorded {escape(plot.quantity)} yet.",
                "",
            )


def _failures(states: Sequence[CellRuns]) -> Iterator[str]:
    logs = [log for state in states for log in state.failed]
    if logs:
        yield from ("## Failed runs", "")
    for log in logs:
        lines = last_lines(log)
        longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
        fence = "`" * max(3, longest + 1)
        yield from (f"{log.stem}, end of logs/{log.name}:", "", f"{fence}text", *lines, fence, "")


def _command(experiment: Experiment, asked: Mapping[str, Any]) -> str:
    words = ["python", "scripts/reproduce.py", experiment.name]
    for name, value in asked.items():
        plain = isinstance(value, list | tuple)
        words += [f"--{name}", json.dumps(value) if plain else _plain(value)]
    return shlex.join(words)


def _commands(
    experiment: Experiment, states: Sequence[CellRuns], asked: Mapping[str, Any]
) -> Iterator[str]:
    yield from (
        "## Commands",
        "",
        "All of it:",
        "",
        "```bash",
        _command(experiment, asked),
        "```",
        "",
    )
    commands = [run.summary.get("command") for state in states for run in state.finished]
    if command := next((c for c in commands if isinstance(c, str)), None):
        yield from ("One run:", "", "```bash", command, "```", "")


def _whence(states: Sequence[CellRuns]) -> Iterator[str]:
    """Hardware and versions of the finished runs, each with its number of runs if they differ."""
    for name in ("hardware", "versions"):
        values = [run.summary.get(name) for state in states for run in state.finished]
        texts = Counter(
            ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
            for value in values if value
        )  # fmt: skip
        for text, count in texts.most_common():
            some = f" ({count} runs)" if len(texts) > 1 else ""
            yield f"- {name}: {escape(text)}{some}"


def write_report(experiment: Experiment, out: Path, asked: Mapping[str, Any]) -> Path:
    """Write out/report.md, a CSV for each table and a PNG for each plot; returns the report's path.

    Works at any time, whatever runs are finished, under way, failed or half written.

    Args:
        experiment: what the paper did.
        out: its folder; runs are in out/runs, logs in out/logs. Made if need be.
        asked: options that override the experiment's, by the names of reproduce.py.
    """
    out.mkdir(parents=True, exist_ok=True)
    read = functools.cache(read_records)
    states = find_runs(experiment, out)
    seeds = asked.get("seeds")
    seeds = seeds if isinstance(seeds, int) else experiment.seeds
    overrides = ", ".join(f"{n} {_plain(v)}" for n, v in asked.items() if n not in WHERE)
    lines = [
        f"# {escape(experiment.title)}",
        "",
        _count_state(states, seeds),
        "",
        f"- written: {datetime.now(timezone.utc).isoformat(sep=' ', timespec='minutes')}",
        *([f"- asked for: {escape(overrides)}"] if overrides else []),
        *_whence(states),
        "",
        *_tables(experiment, states, out, read),
        *_speed(experiment, states, read),
        *_differences(experiment, states, asked),
        *_memory(experiment, states),
        *_plots(experiment, out, read),
        *_failures(states),
        *_commands(experiment, states, asked),
    ]
    _write(out / "report.md", "\n".join(lines).rstrip() + "\n")
    return out / "report.md"
