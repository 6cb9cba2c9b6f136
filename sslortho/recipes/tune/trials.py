"""Trials of a search, as jobs of `supervised`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sslortho.optim.registry import accepted_options
from sslortho.recipes.tune.options import TuneOptions
from sslortho.recipes.tune.search import Search, Trial, write_search
from sslortho.runs.lock import is_held
from sslortho.runs.provenance import command_line
from sslortho.runs.several.job_runner import Ending
from sslortho.runs.several.jobs import Job, last_lines

BETA2 = 0.999
"""Second beta of adam if beta1 is searched and betas are not given; torch's default."""

FIRST_FAILURES, FAILURES = 3, 5
"""Failures in a row that end a search: before the first trial is complete, and after it."""


class SearchFailedError(Exception):
    """Trials fail one after the other, for a reason that another trial would not change."""


def trial_options(options: TuneOptions, values: dict[str, float]) -> dict[str, Any]:
    """Options of `supervised` for a trial with these values."""
    chosen = {**options.shared, **values}
    if "momentum" in values and "momentum" not in accepted_options(options.optim):
        beta1 = chosen.pop("momentum")
        chosen["betas"] = [beta1, options.betas[1] if options.betas else BETA2]
    if options.decay_all:
        chosen["weight_decay_biases"] = chosen["weight_decay"]
    return chosen


def trial_folder(folder: Path, number: int) -> Path:
    """Run folder of a trial, in that of the search."""
    return folder / "trials" / f"trial-{number:04}"


def plan(options: TuneOptions, trial: Trial, folder: Path) -> Job:
    """The job of a trial."""
    own = trial_folder(folder, trial.number)
    return Job(
        name=own.name,
        command="supervised",
        options=trial_options(options, dict(trial.values)),
        folder=own,
        log=folder / "logs" / f"{own.name}.log",
    )


class Trials:
    """Jobs of a search, given one by one, and how they end.

    Trials that were begun earlier come first. A trial that another process still runs (a run outlives
    a search that is killed) is waited for, while others go on.

    Args:
        options: of `tune`.
        search: where trials are drawn and recorded.
        folder: of the search.
    """

    def __init__(self, options: TuneOptions, search: Search, folder: Path) -> None:
        self.options, self.search, self.folder = options, search, folder
        self.at_work: dict[str, Trial] = {}
        self.busy: set[str] = set()
        self.failures = 0

    def __iter__(self) -> Iterator[Job | None]:
        while self.search.completed < self.options.trials:
            yield self._next()

    def _next(self) -> Job | None:
        """The next job; None while all that are needed are running."""
        begun = self.search.open_trials()
        for trial in begun:
            job = plan(self.options, trial, self.folder)
            if job.name not in self.at_work and not self._is_busy(job):
                return self._give(trial, job)
        if self.search.completed + len(begun) >= self.options.trials:
            return None
        trial = self.search.draw()
        return self._give(trial, plan(self.options, trial, self.folder))

    def _is_busy(self, job: Job) -> bool:
        if job.name in self.busy:
            held = is_held(job.log) or is_held(job.folder / ".lock")
            if job.finished or not held:
                self.busy.remove(job.name)
        return job.name in self.busy

    def _give(self, trial: Trial, job: Job) -> Job:
        self.at_work[job.name] = trial
        return job

    def end(self, job: Job, ending: Ending) -> None:
        """Record how a job ended. Raises SearchFailedError if too many in a row have failed."""
        trial = self.at_work.pop(job.name)
        if ending == "busy":
            self.busy.add(job.name)
        if ending not in ("finished", "failed"):
            return
        failed = ending == "failed"
        self.search.tell(trial, None if failed else self._objective(job))
        write_search(self.search, self.options.objective, self.folder, command_line())
        self.failures = self.failures + 1 if failed else 0
        if self.failures >= (FAILURES if self.search.completed else FIRST_FAILURES):
            end = "\n".join(f"  | {line}" for line in last_lines(job.log))
            raise SearchFailedError(
                f"{self.failures} trials in a row have failed; the end of {job.log}:\n{end}"
            )

    def _objective(self, job: Job) -> float:
        summary = json.loads((job.folder / "summary.json").read_text())
        images = summary.get("inputs", {})
        self.search.check_images(images, accepted=self.options.accept_changed_data)
        value = summary[self.options.objective]
        return self.search.worst if summary["diverged"] or value is None else value
