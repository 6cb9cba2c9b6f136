"""Finished runs and trials that an experiment takes up: whether they have the options that are asked for."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sslortho.paper.found_runs import count_precisions, show_precisions
from sslortho.paper.grid import Cell, Experiment
from sslortho.paper.reproduce.plan import full_options
from sslortho.paper.tuning import FOLDER, plan_trial, searches
from sslortho.runs.several.jobs import Job, check_same_options


@dataclass(frozen=True)
class TakenUp:
    """Options that a finished run must agree with to count.

    Args:
        experiment: its cells, adapted.
        out: folder of the experiment.
        shared: options of every run, such as subset.
        may_differ: options that may differ in a finished run.
    """

    experiment: Experiment
    out: Path
    shared: Mapping[str, Any]
    may_differ: Set[str]

    def check_trials(self) -> None:
        """Raise ValueError if a trial that counts for a search has other options than are asked for."""
        for found in searches(self.experiment, self.out):
            for point in found.results():
                job = plan_trial(self.experiment, found, point, self.shared)
                check_same_options(job, full_options(job), self.may_differ, ended=True)

    def belongs(self, folder: Path) -> bool:
        """Whether the run or trial in a folder has the options that are asked for.

        Its rate and momenta, and the seed of a run, may be any.
        """
        name = "-".join(folder.name.split("-")[:2])
        cell = next((cell for cell in self.experiment.cells if cell.name == name), None)
        if cell is None:
            return False
        try:
            job = self._job(cell, folder)
            check_same_options(job, full_options(job), self.may_differ, ended=True)
        except (ValueError, OSError, AttributeError, yaml.YAMLError):  # or its file is damaged
            return False
        return True

    def _job(self, cell: Cell, folder: Path) -> Job:
        """The run that would be asked for, with the rate, the momenta and the seed of that in the folder."""
        stored = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        given = {name: value for name, value in self.shared.items() if value is not None}
        options = {
            "data": self.experiment.data,
            **given,
            **cell.options,
            "seed": stored.get("seed"),
        }
        search = self.experiment.search
        if search is not None:
            names = {"beta1": "betas"}
            searched = [names.get(name, name) for name in search.start_of(cell)]
            options |= {name: stored[name] for name in searched if name in stored}
            if folder.parent.name == FOLDER:
                options |= {**search.options, "seed": search.seed}
        return Job(folder.name, self.experiment.command, options, folder, folder / "log")

    def remark(self, precision: str | None) -> str | None:
        """Line about finished runs of another precision than the one that is asked for; None without any.

        Args:
            precision: of the runs that start now; None for the experiment's.
        """
        found = count_precisions(self.experiment, self.out)
        if precision is None or not set(found) - {precision}:
            return None
        return (
            f"mixed_precision {precision} for what starts now; finished runs and trials count whatever "
            f"theirs: {show_precisions(found)}"
        )
