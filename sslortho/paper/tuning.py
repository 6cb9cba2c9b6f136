"""Rates of an experiment's cells, tuned with the same number of trials for each before its runs."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sslortho.optim.settings import has_auxiliary
from sslortho.options import nearest
from sslortho.paper.compass import Compass, Point
from sslortho.paper.grid import Cell, Experiment, Search
from sslortho.paper.run_records import find_by_seed, read_summary
from sslortho.runs.several.job_runner import Ending
from sslortho.runs.several.jobs import Job
from sslortho.runs.status import read_status
from sslortho.train.backward import NonFiniteError

FOLDER = "search"
"""Folder of the trials in that of an experiment."""


@dataclass(frozen=True)
class CellSearch:
    """The search of one cell, as the folders of its trials tell it."""

    cell: Cell
    search: Search
    out: Path

    @property
    def compass(self) -> Compass:
        """The points and their order."""
        sums = not has_auxiliary(self.cell.options["optim"])
        return Compass(self.search.start_of(self.cell), self.search.trials, sums)

    def options(self, point: Point) -> dict[str, Any]:
        """Options of a run at a point, without those of trials."""
        options, values = dict(self.cell.options), self.compass.values(point)
        if "beta1" in values:
            beta2 = options["betas"][1] if options.get("betas") else 0.999
            options["betas"] = [values.pop("beta1"), beta2]
        return {**options, **values}

    def name(self, point: Point) -> str:
        """Name of a trial: its cell and its values."""
        values = self.compass.values(point)
        return "-".join([self.cell.name, *(f"{name}{value:g}" for name, value in values.items())])

    def result(self, point: Point) -> float | None:
        """Objective of a finished trial, -inf if it diverged; None if it is not finished.

        Raises ValueError if the summary of a trial that did not diverge lacks the objective.
        """
        folder = self.out / FOLDER / self.name(point)
        summary = read_summary(folder)
        if summary is None:
            return -math.inf if has_diverged(folder) else None
        objective = self.search.objective
        if summary.get("diverged"):
            return -math.inf
        if objective not in summary:
            raise ValueError(
                f"search: objective={objective!r} is no figure of {folder / 'summary.json'}"
                f"{nearest(objective, summary)}; name one that the trials have"
            )
        value = summary[objective]
        if value is None:  # a summary's form of a figure that is not finite
            return -math.inf
        return value if self.search.maximise else -value

    def results(self) -> dict[Point, float]:
        """Objective of each trial, in their order, up to the first that is not finished."""
        found: dict[Point, float] = {}
        while (point := self.compass.next_point(found)) is not None:
            value = self.result(point)
            if value is None:
                break
            found[point] = value
        return found

    def next_point(self) -> Point | None:
        """The trial to run now; None if the search is over."""
        return self.compass.next_point(self.results())

    def tuned(self) -> dict[str, Any] | None:
        """Options of the cell at its best point; None while the search is not over, and if all diverged."""
        results = self.results()
        if self.compass.next_point(results) is not None or all_diverged(results):
            return None
        return self.options(self.compass.best(results))

    def run_elsewhere(self) -> dict[str, Any] | None:
        """Rate and momenta of a finished run that are not the tuned ones; None if there is no such run.

        A search that is over goes on when it is asked for more, and may then find a better point.
        """
        tuned = self.tuned()
        names = ["betas" if name == "beta1" else name for name in self.search.start_of(self.cell)]
        for folder in find_by_seed(self.out / "runs", self.cell).values():
            summary = read_summary(folder)
            if summary is None:
                continue
            found = {name: summary["config"][name] for name in names if name in summary["config"]}
            if tuned is not None and any(value != tuned[name] for name, value in found.items()):
                return found
        return None


def all_diverged(results: Mapping[Point, float]) -> bool:
    """Whether there are trials, and each diverged."""
    return bool(results) and all(value == -math.inf for value in results.values())


def has_diverged(folder: Path) -> bool:
    """Whether a run ended since its gradients were not finite."""
    status = read_status(folder)
    if status is None or status.state != "failed":
        return False
    if status.error is None:  # of a version that wrote the message alone
        return "not finite" in (status.message or "")
    return status.error == NonFiniteError.__name__


def searches(experiment: Experiment, out: Path) -> list[CellSearch]:
    """The search of each cell. Raises TypeError for an experiment without one."""
    if experiment.search is None:
        raise TypeError(f"{experiment.name} has no search")
    return [CellSearch(cell, experiment.search, out) for cell in experiment.cells]


def plan_trial(
    experiment: Experiment, found: CellSearch, point: Point, shared: Mapping[str, Any]
) -> Job:
    """The job of a trial; see `reproduce.plan.plan_jobs`."""
    name, search = found.name(point), found.search
    given = {name: value for name, value in shared.items() if value is not None}
    return Job(
        name=name,
        command=experiment.command,
        options={
            "data": experiment.data,
            **given,
            **found.options(point),
            **search.options,
            "seed": search.seed,
        },
        folder=found.out / FOLDER / name,
        log=found.out / "logs" / f"{name}.log",
    )


def next_trials(experiment: Experiment, out: Path, shared: Mapping[str, Any]) -> list[Job]:
    """The next trial of each cell whose search is not over."""
    return [
        plan_trial(experiment, found, point, shared)
        for found in searches(experiment, out)
        if (point := found.next_point()) is not None
    ]


class TuningJobs:
    """Trials of all cells as jobs, a trial of a cell at a time, and how they end.

    A cell with a trial that fails, or that another process runs, is left; one that diverges counts as the
    worst.

    Args:
        experiment: with a search.
        out: its folder.
        shared: options of every run, such as data_dir.
    """

    def __init__(self, experiment: Experiment, out: Path, shared: Mapping[str, Any]) -> None:
        self.experiment, self.shared = experiment, shared
        self.waiting = searches(experiment, out)
        self.at_work: dict[str, CellSearch] = {}

    def __iter__(self) -> Iterator[Job | None]:
        while self.waiting or self.at_work:
            yield self._next()

    def _next(self) -> Job | None:
        """The next trial of the first cell that waits for one; None while all others are at work."""
        while self.waiting:
            found = self.waiting.pop(0)
            point = found.next_point()
            if point is not None:
                job = plan_trial(self.experiment, found, point, self.shared)
                self.at_work[job.name] = found
                return job
        return None

    def end(self, job: Job, ending: Ending) -> None:
        """Note that a trial has ended: its cell goes on first."""
        found = self.at_work.pop(job.name)
        if ending == "finished" or has_diverged(job.folder):
            self.waiting.insert(0, found)


def with_tuned(experiment: Experiment, out: Path) -> Experiment:
    """The experiment with each cell at its best point.

    Cells are left out whose search is not over, whose trials all diverged, or that have runs elsewhere.
    """
    tuned = {
        found.cell.name: found.tuned() if found.run_elsewhere() is None else None
        for found in searches(experiment, out)
    }
    cells = [
        replace(cell, options=options)
        for cell in experiment.cells
        if (options := tuned[cell.name]) is not None
    ]
    return replace(experiment, cells=tuple(cells))
