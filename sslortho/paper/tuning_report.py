"""Section of a report: every trial by which the cells of an experiment were tuned."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sslortho.paper.compass import MOST_EXTRA
from sslortho.paper.grid import Experiment
from sslortho.paper.tuning import CellSearch, all_diverged, searches
from sslortho.runs.markdown import escape, table_lines


def show_values(values: Mapping[str, Any]) -> str:
    """Rate and momenta in words."""
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, int | float) else f"{name} {value}"
        for name, value in values.items()
    )


def _trial_text(found: CellSearch, values: dict[str, float], result: float, best: bool) -> str:
    momenta = ", ".join(f"{value:g}" for name, value in values.items() if name != "lr")
    place = f"{values['lr']:g}" + (f" ({momenta})" if momenta else "")
    sign = 1 if found.search.maximise else -1
    value = "diverged" if math.isinf(result) else f"{sign * result:.2f}"
    return f"{place}: **{value}**" if best else f"{place}: {value}"


def _line(experiment: Experiment, found: CellSearch) -> tuple[str, ...]:
    """Texts of one cell: names, number of trials, best values, whether these are bracketed, all trials."""
    compass, results = found.compass, found.results()
    cell = found.cell
    names = (escape(experiment.rows[cell.row]), escape(experiment.columns[cell.column]))
    if not results:
        return (*names, "0", "-", "-", "-", "-")
    best = compass.best(results)
    values = compass.values(best)
    chosen = show_values(values)
    if moved := found.run_elsewhere():
        chosen += f"; **its runs have {show_values(moved)}**"
    rate = "no" if compass.missing_rates(results) else "yes"
    momentum = "no" if compass.missing_momenta(results) else "yes"
    momentum = momentum if compass.momenta else "-"
    if all_diverged(results):
        best, chosen, rate, momentum = None, "all diverged", "-", "-"
    over = compass.next_point(results) is None
    trials = "; ".join(
        _trial_text(found, compass.values(point), result, point == best)
        for point, result in results.items()
    )
    chosen = chosen if over else f"searching; so far {chosen}"
    return (*names, str(len(results)), chosen, rate, momentum, trials)


def report_tuning(experiment: Experiment, out: Path) -> Iterator[str]:
    """Lines of the section; empty for an experiment whose cells have their rates."""
    search = experiment.search
    if search is None:
        return
    lines = [_line(experiment, found) for found in searches(experiment, out)]
    lines = [line for line in lines if line[2] != "0"]
    yield from ("## Tuning", "")
    if not lines:
        yield from ("No trial is finished yet.", "")
        return
    header = (
        "",
        "optimizer",
        "trials",
        "chosen",
        "rate bracketed",
        "momentum bracketed",
        f"every trial: {search.objective}",
    )
    yield from table_lines(list(zip(header, *lines, strict=True)))
    yield from (
        "",
        f"{search.trials} trials for each, in the order that is shown, with seed {search.seed}, which no run "
        "has; a trial is as long as a run. Each line is rate (momenta): objective. From the start the rate is "
        "tried 3.2 times larger and smaller, then each momentum with its distance to 1 halved and doubled, "
        "and the search goes on from the best; at the end the rate in finer steps. At most "
        f"{MOST_EXTRA} more follow, while the best rate is the largest or smallest that was tried "
        "with its momentum, or the best momentum the largest or smallest that was tried at all. Bracketed: "
        "rates on both sides were tried with that momentum, and momenta on both sides at any rate; there is "
        "none below 0.",
        "",
    )
