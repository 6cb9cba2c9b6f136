"""A run of `reproduce`: plan the jobs, run them, write the report."""

import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sslortho.paper.adaptation import adapt, differing_settings, select_cells
from sslortho.paper.grid import Experiment
from sslortho.paper.grid_file import read_experiment
from sslortho.paper.report import write_report
from sslortho.paper.reproduce.asked import recall, remember
from sslortho.paper.reproduce.options import ReproduceOptions
from sslortho.paper.reproduce.plan import plan
from sslortho.paper.tuning import TuningJobs, with_tuned
from sslortho.runs.several.job_runner import JobRunner, Outcome
from sslortho.runs.several.jobs import TRAINING_IMAGES, Job, fit_subset
from sslortho.runs.several.places import choose_places


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


def run_tuned(
    options: ReproduceOptions, paper: Experiment, ours: Experiment, out: Path, program: str
) -> int:
    """Run an experiment whose rates are tuned first, cell by cell; the exit code."""
    shared = {"data_dir": options.data_dir, "subset": options.subset, "threads": options.threads}
    remember(options, paper.name, out)
    places = choose_places(options.jobs, options.gpus_per_run)
    tuning = TuningJobs(ours, out, shared)
    outcome = JobRunner(places, lambda line: print(line, flush=True)).run(tuning, tuning.end)
    if outcome.signal is None:
        tuned = with_tuned(ours, out)
        jobs = plan(options, paper, tuned, out, program)
        outcome = JobRunner(places, lambda line: print(line, flush=True)).run(jobs)
    report = write_report(paper, out, options.asked)
    code = tell_outcome(outcome, out)
    print(report)
    return code


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
    paper = select_cells(read_experiment(path), options.keys)
    ours = adapt(paper, options.data, options.epochs, options.subset)
    if ours.search is not None:
        return run_tuned(options, paper, ours, out, program)
    jobs = [] if options.report else plan(options, paper, ours, out, program)
    if options.dry_run:
        show_commands(jobs, options.gpus_per_run)
        return 0
    if remark := describe_subset(options, ours.data):
        paper = replace(paper, notes=(*paper.notes, remark))
    outcome = Outcome()
    if jobs:
        places = choose_places(options.jobs, options.gpus_per_run)
        tell_plan(paper, ours, jobs, places, remark)
        remember(options, paper.name, out)
        outcome = JobRunner(places, lambda line: print(line, flush=True)).run(jobs)
    report = write_report(paper, out, options.asked)
    code = tell_outcome(outcome, out)
    print(report)
    return code
