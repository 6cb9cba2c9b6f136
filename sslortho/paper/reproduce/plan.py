"""Runs of an experiment, planned and checked before the first starts."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sslortho.options import Options
from sslortho.paper.grid import Experiment
from sslortho.paper.reproduce.options import ReproduceOptions
from sslortho.recipes.run_options import create_options
from sslortho.runs.several.jobs import Job, check_data_dir, check_same_options, fit_subset


def plan_jobs(
    experiment: Experiment, out: Path, seeds: int, shared: Mapping[str, Any]
) -> list[Job]:
    """A job for every seed and cell: all cells with the first seed, then all with the second.

    Args:
        experiment: its cells.
        out: jobs write to out/runs/NAME and out/logs/NAME.log.
        seeds: number of seeds, from 0.
        shared: options of every run, such as data_dir; those that are None are left out.
    """
    given = {name: value for name, value in shared.items() if value is not None}
    return [
        Job(
            name=f"{cell.name}-s{seed}",
            command=experiment.command,
            options={"data": experiment.data, **given, **cell.options, "seed": seed},
            folder=out / "runs" / f"{cell.name}-s{seed}",
            log=out / "logs" / f"{cell.name}-s{seed}.log",
        )
        for seed in range(seeds)
        for cell in experiment.cells
    ]


def full_options(job: Job) -> Options:
    """All options of a job, with defaults. Raises ValueError for those that its command refuses."""
    try:
        return create_options(job.command, **job.options, out=str(job.folder))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{job.name}: {error}") from error


def plan(
    options: ReproduceOptions, paper: Experiment, ours: Experiment, out: Path, program: str
) -> list[Job]:
    """Jobs of an experiment, checked against the runs that are there already.

    Args:
        options: of `reproduce`.
        paper: the experiment with the paper's settings.
        ours: the same, adapted.
        out: folder of the runs.
        program: name for messages.

    Raises ValueError for a user's mistake, and for a folder with runs of other options.
    """
    data_dir = options.data_dir
    if ours.data == "digits" and data_dir is not None:
        print(f"{program}: data_dir={data_dir!r} has no effect on digits", file=sys.stderr)
        data_dir = None
    if ours.data != "digits" and options.dry_run:
        data_dir = data_dir or "DATA_DIR"
    subset = fit_subset(ours.data, options.subset)
    shared = {"data_dir": data_dir, "subset": subset, "threads": options.threads}
    jobs = plan_jobs(ours, out, options.seeds or paper.seeds, shared)
    wanted = [full_options(job) for job in jobs]
    if not options.dry_run:
        for job, all_of_them in zip(jobs, wanted, strict=True):
            check_same_options(job, all_of_them, options.may_differ)
        if not all(job.finished for job in jobs):
            check_data_dir(ours.data, data_dir)
    return jobs
