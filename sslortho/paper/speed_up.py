"""Section of a report: epochs in which orthogonalised gradients reach the final accuracy of plain ones."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from sslortho.paper.found_runs import CellRuns, by_row
from sslortho.paper.grid import Experiment
from sslortho.paper.run_records import Read, recorded_name, run_points
from sslortho.runs.markdown import escape, table_lines
from sslortho.runs.several.comparison import statistic


def _accuracy_curves(state: CellRuns, read: Read) -> tuple[str, list[dict[float, float]]]:
    """Name of the accuracy, and epoch to accuracy for each finished run that did not diverge."""
    curves, name = [], ""
    for run in state.finished:
        records = read(Path(run.folder))
        name = recorded_name(records, "accuracy")
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


def report_speed_up(
    experiment: Experiment, states: Sequence[CellRuns], read: Read
) -> Iterator[str]:
    """Lines of the section, from finished runs; empty unless some row has both optimizers."""
    lines, names, gap = [], set(), 0.0
    for label, found in by_row(experiment, states):
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
    yield from table_lines(list(zip(header, *lines, strict=True)))
    yield from ("", f"Mean over the seeds, from the evaluations{images} on the way{every}. The paper: it "
                "\"can take less than 5% of the number of epochs\" (section 4.4).", "")  # fmt: skip
