"""report.md of an experiment: our figures beside the paper's, from the runs that there are by now."""

import functools
import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from sslortho.atomic import atomic_file
from sslortho.options import facts
from sslortho.paper.differences import report_differences, show_option
from sslortho.paper.found_runs import (
    CellRuns,
    by_row,
    count_precisions,
    count_states,
    find_runs,
    show_precisions,
)
from sslortho.paper.grid import Experiment
from sslortho.paper.plots import draw_plot, plot_lines
from sslortho.paper.reproduce.options import ReproduceOptions
from sslortho.paper.run_records import Read, is_number, read_records
from sslortho.paper.speed_up import report_speed_up
from sslortho.paper.tables import report_tables
from sslortho.paper.tuning_report import report_tuning
from sslortho.runs.markdown import code_lines, escape, table_lines
from sslortho.runs.several.jobs import last_lines


def _multiple(state: CellRuns) -> str:
    """Memory of parameters, gradients and optimizer state, as a multiple of that of the parameters."""
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
    for label, found in by_row(experiment, states):
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
    yield from table_lines([["", *labels], *columns])
    yield from (
        "",
        "n: the bytes of the parameters; these, their gradients and the optimizer's state.",
        "",
    )


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
        yield from (f"{log.stem}, end of logs/{log.name}:", "")
        yield from (*code_lines("\n".join(lines), "text"), "")


def _command(experiment: Experiment, asked: Mapping[str, Any]) -> str:
    words = ["sslortho", "reproduce", experiment.name]
    for name, value in asked.items():
        plain = isinstance(value, list | tuple)
        words += [f"--{name}", json.dumps(value) if plain else show_option(value)]
    return shlex.join(words)


def _as_typed(command: str, name: str) -> str:
    """A run's command as a user would type it, whether a script or the package was started.

    Args:
        command: from its summary, such as "python -m sslortho supervised --lr 1".
        name: of the command, such as "supervised".
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    if words[1:4] == ["-m", "sslortho", name]:
        return shlex.join(["sslortho", *words[3:]])
    if len(words) > 1 and PurePath(words[1]).name == f"{name}.py":
        return shlex.join(["sslortho", name, *words[2:]])
    return shlex.join(words)


def _commands(
    experiment: Experiment, states: Sequence[CellRuns], asked: Mapping[str, Any]
) -> Iterator[str]:
    all_runs = code_lines(_command(experiment, asked), "bash")
    yield from ("## Commands", "", "All of it:", "", *all_runs, "")
    commands = [run.summary.get("command") for state in states for run in state.finished]
    if command := next((c for c in commands if isinstance(c, str)), None):
        one_run = code_lines(_as_typed(command, experiment.command), "bash")
        yield from ("One run:", "", *one_run, "")


def _origin(states: Sequence[CellRuns]) -> Iterator[str]:
    """Hardware and versions of the finished runs, with the number of runs of each if they differ."""
    for name in ("hardware", "versions"):
        values = [run.summary.get(name) for state in states for run in state.finished]
        texts = Counter(
            ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
            for value in values if value
        )  # fmt: skip
        for text, count in texts.most_common():
            some = f" ({count} runs)" if len(texts) > 1 else ""
            yield f"- {name}: {escape(text)}{some}"


def _precisions(experiment: Experiment, out: Path) -> Iterator[str]:
    """Remark that runs and trials are of several precisions; nothing if they are not."""
    found = count_precisions(experiment, out)
    if len(found) > 1:
        yield f"- mixed_precision of the runs and trials: **{escape(show_precisions(found))}**"


def write_report(experiment: Experiment, out: Path, asked: Mapping[str, Any]) -> Path:
    """Write out/report.md, a CSV for each table and a PNG for each plot; returns the report's path.

    Works at any time, whatever the state of the runs.

    Args:
        experiment: the paper's.
        out: folder of our runs (out/runs) and their logs (out/logs). Made if need be.
        asked: options of `reproduce` that override the experiment's.
    """
    out.mkdir(parents=True, exist_ok=True)
    read = functools.cache(read_records)
    states = find_runs(experiment, out)
    seeds = asked.get("seeds")
    seeds = seeds if isinstance(seeds, int) else experiment.seeds
    known = facts(ReproduceOptions)
    changes = [n for n in asked if n not in known or known[n].affects_result]
    overrides = ", ".join(f"{name} {show_option(asked[name])}" for name in changes)
    lines = [
        f"# {escape(experiment.title)}",
        "",
        count_states(states, seeds),
        "",
        f"- written: {datetime.now(timezone.utc).isoformat(sep=' ', timespec='minutes')}",
        *([f"- asked for: {escape(overrides)}"] if overrides else []),
        *_origin(states),
        *_precisions(experiment, out),
        "",
        *report_tables(experiment, states, out, read),
        *report_speed_up(experiment, states, read),
        *report_tuning(experiment, out),
        *report_differences(experiment, states, asked),
        *_memory(experiment, states),
        *_plots(experiment, out, read),
        *_failures(states),
        *_commands(experiment, states, asked),
    ]
    path = out / "report.md"
    with atomic_file(path) as file:
        file.write(("\n".join(lines).rstrip() + "\n").encode())
    return path
