"""Section of a report: epochs in which optimizers reach the final accuracy of another one."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from sslortho.paper.found_runs import CellRuns, by_row
from sslortho.paper.grid import Experiment, Reach
from sslortho.paper.run_records import Read, is_number, recorded_name, run_points
from sslortho.runs.markdown import escape, table_lines
from sslortho.runs.several.comparison import statistic


def _accuracy_curves(
    state: CellRuns, quantity: str, read: Read
) -> tuple[str, list[dict[float, float]]]:
    """Name of the accuracy, and epoch to accuracy for each finished run that did not diverge."""
    curves, name = [], ""
    for run in state.finished:
        records = read(Path(run.folder))
        name = recorded_name(records, quantity)
        points = run_points(records, name, "epoch")
        if points and run.summary.get("diverged") is not True:
            curves.append(points)
    return name, curves


def epochs_to_reach(curve: Mapping[float, float], target: float) -> float | None:
    """First epoch whose accuracy is at least `target`; None if there is none."""
    return min((epoch for epoch, value in curve.items() if value >= target), default=None)


def _reached_text(reached: Sequence[float | None], total: float) -> tuple[str, str]:
    """Mean number of epochs, and its share of the total, in words."""
    epochs = [epoch for epoch in reached if epoch is not None]
    if not epochs:
        return "not reached", "-"
    mean = statistic(epochs).mean
    missing = len(reached) - len(epochs)
    some = f", not reached by {missing} of {len(reached)}" if missing else ""
    return f"{mean:.3g}{some}", f"{100 * mean / total:.1f} %" if total else "-"


def _largest_gap(curves: Iterable[Mapping[float, float]]) -> float:
    """Largest number of epochs between two evaluations."""
    epochs = map(sorted, curves)
    return max((b - a for found in epochs for a, b in pairwise(found)), default=0)


def _seconds(state: CellRuns) -> float | None:
    """Mean seconds that a finished run trained for; None if a run does not tell."""
    seconds = []
    for run in state.finished:
        rate, steps = run.summary.get("images_per_second"), run.summary.get("steps")
        batch = run.config.get("batch_size")
        if not (is_number(rate) and rate and is_number(steps) and is_number(batch)):
            return None
        seconds.append(steps * batch / rate)
    return statistic(seconds).mean if seconds else None


def _compare(
    state: CellRuns, reach: Reach, name: str, target: float, read: Read
) -> tuple[tuple[str, ...], float] | None:
    """Texts of a column's line, and its largest gap between evaluations; None without finished runs."""
    other, curves = _accuracy_curves(state, reach.quantity, read)
    if not curves or name != other:
        return None
    total = max(max(curve) for curve in curves)
    reached = [epochs_to_reach(curve, target) for curve in curves]
    epochs, share = _reached_text(reached, total)
    known, whole = [e for e in reached if e is not None], _seconds(state)
    seconds = f"{whole * statistic(known).mean / total:.0f}" if known and whole and total else "-"
    return (epochs, share, seconds), _largest_gap(curves)


def report_speed_up(
    experiment: Experiment, states: Sequence[CellRuns], read: Read
) -> Iterator[str]:
    """Lines of the section, from finished runs; empty unless some row has the baseline and another."""
    reach = experiment.reach
    if reach is None:
        return
    lines, names, gap = [], set(), 0.0
    for label, found in by_row(experiment, states):
        cells = {state.cell.column: state for state in found}
        if reach.baseline not in cells:
            continue
        name, plain = _accuracy_curves(cells[reach.baseline], reach.quantity, read)
        if not plain:
            continue
        target = statistic([curve[max(curve)] for curve in plain]).mean
        total, whole = max(max(curve) for curve in plain), _seconds(cells[reach.baseline])
        for column in reach.columns:
            compared = column in cells and _compare(cells[column], reach, name, target, read)
            if compared:
                texts, largest = compared
                gap = max(gap, largest)
                names.add(name)
                seconds = f"{whole:.0f}" if whole else "-"
                optimizer = escape(experiment.columns[column])
                lines.append((label, f"{target:.2f}", optimizer, *texts, f"{total:g}", seconds))
    if not lines:
        return
    baseline = escape(experiment.columns[reach.baseline])
    header = ("", f"{baseline}, at the end (%)", "optimizer", "epochs", "of all", "seconds",
              f"epochs of {baseline}", f"seconds of {baseline}")  # fmt: skip
    images = " of held-out images" if any(name.startswith("val_") for name in names) else ""
    every = f", every {gap:g} epochs" if gap > 1 else ""
    yield from (f"## Epochs to the final accuracy of {baseline}", "")
    yield from table_lines(list(zip(header, *lines, strict=True)))
    text = (
        f"Mean over the seeds, from the evaluations{images} on the way{every}. Seconds are those of training "
        f"alone, on the machine of the runs. {reach.remark}"
    )
    yield from ("", text.rstrip(), "")
