"""Section of a report: how our runs of an experiment differ from the paper's."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sslortho.paper.found_runs import CellRuns
from sslortho.paper.grid import Experiment
from sslortho.recipes.run_options import ignored_options
from sslortho.runs.markdown import escape
from sslortho.runs.several.identity import identity

ABSENT = "its default"
"""In place of a value that the experiment leaves at the command's default."""


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b


def _names(cells: Iterable[str], all_cells: Sequence[str], most: int = 4) -> str:
    """Names of some cells in brackets; empty if they are all."""
    cells = list(dict.fromkeys(cells))
    if len(cells) == len(all_cells):
        return ""
    more = f" and {len(cells) - most} more" if len(cells) > most else ""
    return f" ({', '.join(cells[:most])}{more})"


def _differing_options(
    experiment: Experiment, states: Sequence[CellRuns], asked: Mapping[str, Any]
) -> list[str]:
    free = {*ignored_options(), "seed", "data_dir"}
    found: dict[tuple[str, str, str], list[str]] = {}
    for state in states:
        paper = {"data": experiment.data, "subset": None, **state.cell.options}
        for run in state.finished:
            extra = {name: ABSENT for name in asked if name not in paper and name in run.config}
            for name, value in {**paper, **extra}.items():
                ours = run.config.get(name)
                if name not in free and not _same(ours, value):
                    key = (
                        name,
                        show_option(ours),
                        value if value is ABSENT else show_option(value),
                    )
                    found.setdefault(key, []).append(state.cell.name)
    with_runs = [state.cell.name for state in states if state.finished]
    return [
        f"- {escape(name)}: {escape(ours)} instead of {escape(paper)}{_names(cells, with_runs)}"
        for (name, ours, paper), cells in found.items()
    ]


def show_option(value: Any) -> str:
    """Value of an option in words."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return ", ".join(map(show_option, value))
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _mixed(states: Sequence[CellRuns]) -> Iterator[str]:
    """Lines about cells whose runs differ in more than the seed, so that their mean has no meaning."""
    for state in states:
        options = [identity(run.config, ignored_options()) for run in state.finished]
        names = dict.fromkeys(name for option in options for name in option)
        differing = [name for name in names if len({option.get(name) for option in options}) > 1]
        if differing:
            yield (f"- **the runs of {state.cell.name} differ from each other in "
                   f"{escape(', '.join(differing))}**")  # fmt: skip


def report_differences(
    experiment: Experiment, states: Sequence[CellRuns], asked: Mapping[str, Any]
) -> Iterator[str]:
    """Lines of the section: options that differ, in which cells, and the number of seeds.

    Args:
        experiment: the paper's.
        states: our runs, by cell.
        asked: options that override the experiment's.
    """
    given = "the experiment's file" if experiment.search else "the paper"
    yield from (f"## What differs from {given}", "")
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
