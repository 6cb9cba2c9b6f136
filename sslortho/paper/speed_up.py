"""Section of a report: epochs in which optimizers reach the final accuracy of another one."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from sslortho.paper.found_runs import CellRuns, by_row
from sslortho.paper.grid import Experiment
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


def mean_curve(curves: Sequence[Mapping[float, float]]) -> dict[float, float]:
    """Epoch to the mean accuracy of all runs, at the epochs at which each was evaluated."""
    shared = set(curves[0]).intersection(*curves[1:]) if curves else set[float]()
    return {epoch: statistic([c[epoch] for c in curves]).mean for epoch in sorted(shared)}


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


@dataclass(frozen=True)
class _Mean:
    """Mean over the seeds of a cell."""

    name: str
    """Name of the accuracy, as it was recorded."""
    curve: Mapping[float, float]
    """Epoch to accuracy; not empty."""
    gap: float
    """Largest number of epochs between two evaluations."""
    seconds: float | None
    """Seconds of a whole run; None if a run does not tell."""

    @property
    def final(self) -> float:
        """Accuracy at the end."""
        return self.curve[max(self.curve)]

    def texts(self, target: float) -> tuple[str, str, str]:
        """Epochs to the target, their share of all, and seconds, in words."""
        epochs, total = epochs_to_reach(self.curve, target), max(self.curve)
        if epochs is None:
            return "not reached", "-", "-"
        seconds = f"{self.seconds * epochs / total:.0f}" if self.seconds and total else "-"
        return f"{epochs:g}", f"{100 * epochs / total:.1f} %" if total else "-", seconds


def _mean(state: CellRuns | None, quantity: str, read: Read) -> _Mean | None:
    """Mean of a cell; None without finished runs that share an epoch."""
    if state is None:
        return None
    name, curves = _accuracy_curves(state, quantity, read)
    curve = mean_curve(curves)
    return _Mean(name, curve, _largest_gap(curves), _seconds(state)) if curve else None


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
        plain = _mean(cells.get(reach.baseline), reach.quantity, read)
        if plain is None:
            continue
        epochs, _, seconds = plain.texts(plain.final)
        for column in reach.columns:
            other = _mean(cells.get(column), reach.quantity, read)
            if other is None or other.name != plain.name:
                continue
            gap = max(gap, plain.gap, other.gap)
            names.add(plain.name)
            texts = (*other.texts(plain.final), epochs, seconds)
            lines.append((label, f"{plain.final:.2f}", escape(experiment.columns[column]), *texts))
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
        f"Epochs: the first at which the mean over the seeds is at least the accuracy that {baseline} has at "
        f"the end, by the same rule for {baseline} itself; from the evaluations{images} on the way{every}. "
        f"Seconds are those of training up to there, on the machine of the runs. {reach.remark}"
    )
    yield from ("", text.rstrip(), "")
