"""A run of `reproduce`: plan the jobs, run them, write the report."""

import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sslortho.paper.adaptation import adapt, differing_settings, select_cells
from sslortho.paper.grid import Experiment
from sslortho.paper.grid_file import read_experiment
from sslortho.paper.kept_runs import keep_runs, restore_runs
from sslortho.paper.report import write_report
from sslortho.paper.reproduce.asked import recall, remember
from sslortho.paper.reproduce.options import ReproduceOptions
from sslortho.paper.reproduce.plan import full_options, plan
from sslortho.paper.reproduce.taken_up import TakenUp
from sslortho.paper.tuning import FOLDER as TRIALS
from sslortho.paper.tuning import (
    TuningJobs,
    all_diverged,
    has_diverged,
    next_trials,
    searches,
    with_tuned,
)
from sslortho.paper.tuning_report import show_values
from sslortho.runs.several.job_runner import Ending, JobRunner, Outcome
from sslortho.runs.several.jobs import (
    TRAINING_IMAGES,
    Job,
    check_data_dir,
    check_same_options,
    fit_subset,
)
from sslortho.runs.several.places import choose_places

Ended = Callable[[Job, Ending], None]


def describe_subset(options: ReproduceOptions, data: str) -> str | None:
    """Remark that all images are fewer than were asked for; None if they are not."""
    if fit_subset(data, options.subset) == options.subset:
        return None
    return f"subset: all {TRAINING_IMAGES[data]}, {options.subset} asked for"


def show_commands(jobs: Sequence[Job], processes: int) -> None:
    """Print the command of every run that is not finished, as a user would type it."""
    if all(job.finished for job in jobs):
        print("every run is finished")
    for job in jobs:
        if not job.finished:
            print(job.describe_command(processes))


def tell_plan(
    paper: Experiment,
    ours: Experiment,
    jobs: Sequence[Job],
    places: Sequence[str | None],
    remark: str | None,
) -> None:
    """Print what is about to run."""
    finished = sum(job.finished for job in jobs)
    gpus = {gpu for place in places if place is not None for gpu in place.split(",")}
    where = f"{len(gpus)} GPU(s)" if gpus else "the CPU"
    print(
        f"{ours.name}: {len(jobs)} runs, {finished} finished already; {len(places)} at a time on {where}"
    )
    if changed := differing_settings(paper, ours, "log_every"):
        print(
            "not as in the paper:", ", ".join(f"{name} {value}" for name, value in changed.items())
        )
    if remark:
        print(remark)


def tell_outcome(outcome: Outcome, out: Path) -> int:
    """Print what went wrong; the exit code."""
    if outcome.failed:
        print(f"failed: {', '.join(outcome.failed)}; logs are in {out / 'logs'}", file=sys.stderr)
    if outcome.busy:
        print(f"left to another process that runs them: {', '.join(outcome.busy)}; the same command "
              "takes them up if it ends early", file=sys.stderr)  # fmt: skip
    if outcome.signal is not None:
        print(f"stopped by {signal.Signals(outcome.signal).name}; the same command goes on")
        return 128 + outcome.signal
    return int(bool(outcome.failed or outcome.busy))


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


@dataclass(frozen=True)
class Reproduction:
    """An experiment at work in its folder."""

    options: ReproduceOptions
    paper: Experiment
    """With the paper's settings."""
    ours: Experiment
    """The same, adapted."""
    whole: Experiment
    """The same with all cells, whichever are asked for."""
    out: Path
    program: str

    @property
    def shared(self) -> dict[str, Any]:
        """Options of every run."""
        subset = fit_subset(self.ours.data, self.options.subset)
        return {
            "data_dir": None if self.ours.data == "digits" else self.options.data_dir,
            "subset": subset,
            "threads": self.options.threads,
        }

    def begin(self) -> list[str | None]:
        """Write down what is asked; the places of the runs."""
        remember(self.options, self.paper.name, self.out)
        return choose_places(self.options.jobs, self.options.gpus_per_run)

    def taken_up(self, experiment: Experiment) -> TakenUp:
        """Options that finished runs of an experiment must agree with."""
        return TakenUp(experiment, self.out, self.shared, self.options.may_differ)

    def keep(self) -> list[str]:
        """Write the figures of finished runs to the file that keeps them; names of those of other options."""
        if self.options.kept is None:
            return []
        return keep_runs(Path(self.options.kept), self.out, self.taken_up(self.whole).belongs)

    def run(self, jobs: Iterable[Job | None], ended: Ended | None = None) -> Outcome:
        """Run jobs, and keep the figures of each that ends."""

        def end(job: Job, ending: Ending) -> None:
            self.keep()
            if ended is not None:
                ended(job, ending)

        return JobRunner(self.begin(), say).run(jobs, end)

    def tune(self) -> Outcome:
        """Run the trials of all cells; the outcome has no trial that diverged."""
        tuning = TuningJobs(self.ours, self.out, self.shared)
        outcome = self.run(tuning, tuning.end)
        failed = [n for n in outcome.failed if not has_diverged(self.out / TRIALS / n)]
        return replace(outcome, failed=tuple(failed))

    def plan(self) -> list[Job]:
        """Jobs of the runs, of those cells that are tuned."""
        ours = self.ours if self.ours.search is None else with_tuned(self.ours, self.out)
        return plan(self.options, self.paper, ours, self.out, self.program)

    def plan_trials(self) -> list[Job]:
        """The next trial of each cell whose search is not over. Raises ValueError for wrong options."""
        if self.ours.search is None:
            return []
        self.taken_up(self.ours).check_trials()
        jobs = next_trials(self.ours, self.out, self.shared)
        for job in jobs:
            check_same_options(job, full_options(job), self.options.may_differ)
        return jobs

    def report(self) -> Path:
        """Write the report; its path."""
        paper = self.paper
        if remark := describe_subset(self.options, self.ours.data):
            paper = replace(paper, notes=(*paper.notes, remark))
        return write_report(paper, self.out, self.options.asked)


def prepare(options: ReproduceOptions, path: Path, out: Path, program: str) -> Reproduction:
    """The experiment of a file, as the options ask for it."""
    everything = read_experiment(path)
    paper = select_cells(everything, options.keys)
    ours, whole = (
        adapt(one, options.data, options.epochs, options.subset, options.mixed_precision)
        for one in (paper, everything)
    )
    return Reproduction(options, paper, ours, whole, out, program)


def run(options: ReproduceOptions, path: Path, program: str) -> int:
    """Run an experiment and write its report; the exit code.

    Args:
        options: of `reproduce`.
        path: file of the experiment.
        program: name for messages.

    Raises ValueError for a user's mistake.
    """
    out = Path(options.out or f"runs/{path.stem}")
    options = recall(options, path.stem, out)
    work = prepare(options, path, out, program)
    if options.kept is not None and not options.dry_run:
        print(f"{options.kept}: {restore_runs(Path(options.kept), out)} finished runs taken up")
    outcome = Outcome()
    if not options.report:
        trials, jobs = work.plan_trials(), work.plan()
        if options.dry_run:
            show_commands([*trials, *jobs], options.gpus_per_run)
            return 0
        outcome = run_jobs(work, trials, jobs)
    if left := work.keep():
        print(f"{options.kept}: left out, of other options than are asked for: {', '.join(left)}")
    report = work.report()
    code = tell_outcome(outcome, out)
    if not options.report:
        code = code or tell_left_cells(work)
    print(report)
    return code


def run_jobs(work: Reproduction, trials: Sequence[Job], jobs: Sequence[Job]) -> Outcome:
    """Run trials, if any is left, and then the runs."""
    options, outcome = work.options, Outcome()
    remark = describe_subset(options, work.ours.data)
    tell_plan(work.paper, work.ours, [*trials, *jobs], work.begin(), remark)
    if remark := work.taken_up(work.ours).remark(options.mixed_precision):
        print(remark)
    if trials:
        check_data_dir(work.ours.data, options.data_dir)
        outcome = work.tune()
        jobs = work.plan()
    return outcome if outcome.signal is not None else merge(outcome, work.run(jobs))


def tell_left_cells(work: Reproduction) -> int:
    """Print which cells are not run though their search is over, and why; the exit code."""
    code, runs = 0, work.out / "runs"
    for found in [] if work.ours.search is None else searches(work.ours, work.out):
        name = found.cell.name
        if found.next_point() is None and all_diverged(found.results()):
            print(f"not run: {name}, whose trials all diverged; give search a smaller lr to start from",
                  file=sys.stderr)  # fmt: skip
            code = 1
        elif moved := found.run_elsewhere():
            kept = "" if work.options.kept is None else f" and from {work.options.kept}"
            print(f"not run: {name}, which has runs with {show_values(moved)}, but its search has found a "
                  f"better point since; remove {runs / name}-s*{kept}", file=sys.stderr)  # fmt: skip
            code = 1
    return code


def merge(first: Outcome, second: Outcome) -> Outcome:
    """Outcome of both."""
    return Outcome(
        (*first.failed, *second.failed), (*first.busy, *second.busy), second.signal or first.signal
    )
