"""Run an experiment of the paper by its name: `python scripts/reproduce.py table3 --data_dir D`.

Writes out/runs/NAME, out/logs/NAME.log, and out/report.md: our figures beside the paper's. Starting the
same command again goes on where it was stopped.
"""

import re
import shlex
import signal
import sys
from pathlib import Path

from sslortho.config import MAY_CHANGE, ReproduceConfig, parse_config, user_errors
from sslortho.experiments import write_report
from sslortho.experiments.adaptation import adapt, differing_settings, select_cells
from sslortho.experiments.grid import Experiment, nearest, read_experiment
from sslortho.experiments.runner import (
    Job,
    Runner,
    check_same_options,
    plan_jobs,
    visible_gpus,
)

SCRIPTS = Path(__file__).resolve().parent
PAPER = SCRIPTS.parent / "configs" / "paper"


def find_experiments() -> dict[str, Path]:
    """Name to file: tables, then figures, each by number, then the others."""
    return {path.stem: path for path in sorted(PAPER.glob("*.yaml"), key=_place)}


def _place(path: Path) -> tuple[int, int, str]:
    """In the order of the experiments."""
    kinds = ("table", "figure")
    numbered = re.fullmatch(rf"({'|'.join(kinds)})(\d+)", path.stem)
    if numbered is None:
        return len(kinds), 0, path.stem
    return kinds.index(numbered[1]), int(numbered[2]), path.stem


def list_experiments() -> str:
    """How to call the script, and what there is to run."""
    lines = [
        f"{name:12} {read_experiment(path).title}" for name, path in find_experiments().items()
    ]
    return "\n".join(
        ("usage: reproduce.py EXPERIMENT [options]; EXPERIMENT --help has the options", "", *lines)
    )


def choose_experiment(name: str) -> Path:
    """Its file. Raises ValueError for an unknown name, with the nearest right one."""
    known = find_experiments()
    if name not in known:
        raise ValueError(
            f"{name!r} is no experiment{nearest(name, known)}; they are {', '.join(known)}"
        )
    return known[name]


def plan(config: ReproduceConfig, paper: Experiment, ours: Experiment, out: Path) -> list[Job]:
    """The runs, checked against those that are there already."""
    data_dir = None
    if ours.data != "digits":
        data_dir = config.data_dir or ("DATA_DIR" if config.dry_run else None)
        if data_dir is None and not config.report:
            raise ValueError(f"data={ours.data!r} needs data_dir, the folder that it lies in")
    elif config.data_dir is not None:
        raise ValueError(f"data_dir={config.data_dir!r} has no effect on data='digits'")
    shared = {"data_dir": data_dir, "subset": config.subset, "threads": config.threads}
    jobs = plan_jobs(ours, SCRIPTS, out, config.seeds or paper.seeds, shared)
    if not config.dry_run:
        check_same_options(jobs, MAY_CHANGE)
    return jobs


def show_commands(jobs: list[Job]) -> None:
    """The command of every run that is not finished, as it would be typed in the repository."""
    for job in jobs:
        if not job.finished:
            print(shlex.join(["python", f"scripts/{job.script.name}", *job.arguments]))


def tell_plan(
    paper: Experiment, ours: Experiment, jobs: list[Job], places: list[str | None]
) -> None:
    """What is about to happen."""
    finished = sum(job.finished for job in jobs)
    gpus = {place for place in places if place is not None}
    where = f"{len(gpus)} GPU(s)" if gpus else "the CPU"
    print(
        f"{ours.name}: {len(jobs)} runs, {finished} finished already; {len(places)} at a time on {where}"
    )
    if changed := differing_settings(paper, ours, "log_every"):
        print(
            "not as in the paper:", ", ".join(f"{name} {value}" for name, value in changed.items())
        )


def choose_places(jobs: int | None) -> list[str | None]:
    """The GPU, or None, of each of the runs at a time."""
    gpus = visible_gpus()
    count = jobs or max(1, len(gpus))
    return [gpus[i % len(gpus)] if gpus else None for i in range(count)]


def run(config: ReproduceConfig, path: Path) -> int:
    """All that was asked for; the exit code."""
    paper = select_cells(read_experiment(path), config.keys)
    ours = adapt(paper, config.data, config.epochs, config.subset)
    out = Path(config.out or f"runs/{paper.name}").expanduser()
    jobs = [] if config.report else plan(config, paper, ours, out)
    if config.dry_run:
        show_commands(jobs)
        return 0
    code = 0
    if jobs:
        places = choose_places(config.jobs)
        tell_plan(paper, ours, jobs, places)
        outcome = Runner(places, lambda line: print(line, flush=True)).run(jobs)
        if outcome.failed:
            print(
                f"failed: {', '.join(outcome.failed)}; logs are in {out / 'logs'}", file=sys.stderr
            )
        if outcome.signal is not None:
            print(f"stopped by {signal.Signals(outcome.signal).name}; the same command goes on")
        code = 128 + outcome.signal if outcome.signal is not None else int(bool(outcome.failed))
    print(write_report(paper, out, config.asked))
    return code


def main() -> None:
    name, *options = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        print(list_experiments())
        sys.exit(0 if len(sys.argv) > 1 else 2)
    debug = "--debug" in options
    with user_errors(debug):
        if name.startswith("-"):
            raise ValueError(f"the name of an experiment comes first, before {name}")
        path = choose_experiment(name)
        config = parse_config(ReproduceConfig, options)
        code = run(config, path)
    sys.exit(code)


if __name__ == "__main__":
    main()
