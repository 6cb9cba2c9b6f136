"""Run an experiment of the paper by its name: `python scripts/reproduce.py table3 --data_dir D`.

Writes out/runs/NAME, out/logs/NAME.log, and out/report.md: our figures beside the paper's. Starting the
same command again goes on where it was stopped.
"""

import json
import re
import shlex
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from sslortho.atomic import atomic_file
from sslortho.runs.config_file import MAY_CHANGE
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.paper.reproduce_options import ReproduceOptions
from sslortho.recipes.supervised.options import SupervisedOptions
from sslortho.recipes.command_line import parse_config, user_errors
from sslortho.paper.report import write_report
from sslortho.paper.adaptation import (
    TRAINING_IMAGES,
    adapt,
    differing_settings,
    fit_subset,
    select_cells,
)
from sslortho.paper.grid import Experiment, nearest
from sslortho.paper.grid_file import read_experiment
from sslortho.runs.jobs import (
    Job,
    check_data_dir,
    check_same_options,
    plain_options,
    plan_jobs,
)
from sslortho.runs.runner import Outcome, Runner, choose_places, launcher

SCRIPTS = Path(__file__).resolve().parent
PAPER = SCRIPTS.parent / "configs" / "paper"

CONFIGS = {"supervised.py": SupervisedOptions, "pretrain.py": PretrainOptions.of}
"""What each script can be told."""


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


PART_OF = {
    "table6": "table2",
    "table7": "table4",
    **dict.fromkeys(("figure2", "figure3", "figure4", "figure5", "figure11"), "table3"),
    "figure6": "imagenet",
    **dict.fromkeys(("figure12", "figure13"), "table2"),
}
"""Tables and figures of the paper that another experiment writes too."""


def choose_experiment(name: str) -> Path:
    """Its file. Raises ValueError for an unknown name, with the nearest right one."""
    known = find_experiments()
    if name in PART_OF:
        print(f"{name} is written by {PART_OF[name]}")
        name = PART_OF[name]
    if name not in known:
        raise ValueError(
            f"{name!r} is no experiment{nearest(name, known)}; they are {', '.join(known)}"
        )
    return known[name]


def full_options(job: Job) -> dict[str, Any]:
    """All that its script would have, defaults too, as YAML has them.

    Raises ValueError for options that the script would refuse.
    """
    try:
        config = CONFIGS[job.script.name](**job.options, out=str(job.folder))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{job.name}: {error}") from error
    return plain_options(config)


def plan(config: ReproduceOptions, paper: Experiment, ours: Experiment, out: Path) -> list[Job]:
    """The runs, checked against those that are there already."""
    data_dir = config.data_dir
    if ours.data == "digits" and data_dir is not None:
        print(f"reproduce.py: data_dir={data_dir!r} has no effect on digits", file=sys.stderr)
        data_dir = None
    if ours.data != "digits" and config.dry_run:
        data_dir = data_dir or "DATA_DIR"
    subset = fit_subset(ours.data, config.subset)
    shared = {"data_dir": data_dir, "subset": subset, "threads": config.threads}
    jobs = plan_jobs(ours, SCRIPTS, out, config.seeds or paper.seeds, shared)
    options = [full_options(job) for job in jobs]
    if not config.dry_run:
        for job, all_of_them in zip(jobs, options, strict=True):
            check_same_options(job, all_of_them, MAY_CHANGE)
        if not all(job.finished for job in jobs):
            check_data_dir(ours.data, data_dir)
    return jobs


def describe_subset(config: ReproduceOptions, data: str) -> str | None:
    """In words, that all images are fewer than were asked for; None where they are not."""
    if fit_subset(data, config.subset) == config.subset:
        return None
    return f"subset: all {TRAINING_IMAGES[data]}, {config.subset} asked for"


def show_commands(jobs: list[Job], processes: int) -> None:
    """The command of every run that is not finished, as it would be typed in the repository."""
    if all(job.finished for job in jobs):
        print("every run is finished")
    for job in jobs:
        if not job.finished:
            script = f"scripts/{job.script.name}"
            print(shlex.join(["python", *launcher(processes), script, *job.arguments]))


def tell_plan(
    paper: Experiment,
    ours: Experiment,
    jobs: list[Job],
    places: list[str | None],
    remark: str | None,
) -> None:
    """What is about to happen."""
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
    """What went wrong; the exit code."""
    if outcome.failed:
        print(f"failed: {', '.join(outcome.failed)}; logs are in {out / 'logs'}", file=sys.stderr)
    if outcome.busy:
        print(f"left to another process that runs them: {', '.join(outcome.busy)}; the same command "
              "takes them up if it ends early", file=sys.stderr)  # fmt: skip
    if outcome.signal is not None:
        print(f"stopped by {signal.Signals(outcome.signal).name}; the same command goes on")
        return 128 + outcome.signal
    return int(bool(outcome.failed or outcome.busy))


REMEMBERED = "asked.json"
"""File in the folder of an experiment: its name, and what it was asked to be."""


def read_asked(path: Path) -> dict[str, Any]:
    """What `remember` wrote. Raises ValueError for anything else."""
    try:
        stored = json.loads(path.read_text())
        if isinstance(stored["experiment"], str) and isinstance(stored["asked"], dict):
            return stored
    except (ValueError, TypeError, KeyError):
        pass
    raise ValueError(f"{path} is damaged; remove it, or give another --out")


def recall(config: ReproduceOptions, name: str, out: Path) -> ReproduceOptions:
    """The configuration, for a report with what the runs in `out` were started with where it is silent.

    Raises ValueError if the folder is of another experiment, or a report is wanted of none.
    """
    path = out / REMEMBERED
    if config.report and config.out is not None and not out.is_dir():
        raise ValueError(f"out={str(out)!r} is no folder, so there is nothing to report")
    if not path.exists():
        return config
    stored = read_asked(path)
    if stored["experiment"] != name:
        raise ValueError(
            f"out={str(out)!r} holds {stored['experiment']}, not {name}; give another --out"
        )
    if not config.report:
        return config
    silent = {n: v for n, v in stored["asked"].items() if getattr(config, n, None) is None}
    return replace(config, **silent)


def remember(config: ReproduceOptions, name: str, out: Path) -> None:
    """Write down what the runs in `out` are; rows and columns join those of before."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / REMEMBERED
    asked = {n: v for n, v in config.asked.items() if n != "out"}
    if path.exists():
        before = read_asked(path)["asked"].get("only")
        keys = [*(before or "").split(","), *config.keys]
        asked["only"] = ",".join(dict.fromkeys(keys)) if before and config.only else None
    with atomic_file(out / REMEMBERED) as file:
        file.write(json.dumps({"experiment": name, "asked": asked}, indent=2).encode())


def run(config: ReproduceOptions, path: Path) -> int:
    """All that was asked for; the exit code."""
    out = Path(config.out or f"runs/{path.stem}").expanduser()
    config = recall(config, path.stem, out)
    paper = select_cells(read_experiment(path), config.keys)
    ours = adapt(paper, config.data, config.epochs, config.subset)
    jobs = [] if config.report else plan(config, paper, ours, out)
    if config.dry_run:
        show_commands(jobs, config.gpus_per_run)
        return 0
    if remark := describe_subset(config, ours.data):
        paper = replace(paper, notes=(*paper.notes, remark))
    outcome = Outcome()
    if jobs:
        places = choose_places(config.jobs, config.gpus_per_run)
        tell_plan(paper, ours, jobs, places, remark)
        remember(config, paper.name, out)
        outcome = Runner(places, lambda line: print(line, flush=True)).run(jobs)
    report = write_report(paper, out, config.asked)
    code = tell_outcome(outcome, out)
    print(report)
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
        config = parse_config(ReproduceOptions, options)
        code = run(config, path)
    sys.exit(code)


if __name__ == "__main__":
    main()
