"""Rerun a finished run and compare: `python scripts/reproduce_run.py runs/x`.

The same script with the same options, ranks and threads, in another folder; then weights, records and
figures, number by number. Exit code 0 if all are the same bits (or within --tolerance), 1 if not. The
same command resumes a rerun that was cut short.
"""

import json
import math
import os
import shlex
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from subprocess import Popen
from typing import Any

import torch

from sslortho.atomic import atomic_file
from sslortho.recipes.linear_eval.options import KnnEvalOptions, LinearEvalOptions
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.rerun_options import ReproduceRunOptions
from sslortho.recipes.supervised.options import SupervisedOptions
from sslortho.runs.config_file import check_same_run
from sslortho.recipes.command_line import parse_config, user_errors
from sslortho.runs.rerun import (
    Comparison,
    FinishedRun,
    build_command,
    build_options,
    compare_finished,
    describe_changes,
    read_finished,
)
from sslortho.runs.provenance import git_commit, machine, versions

KINDS = {
    kind.__name__: kind
    for kind in (PretrainOptions, SupervisedOptions, LinearEvalOptions, KnnEvalOptions)
}


def check_rerun(run: FinishedRun, out: Path) -> None:
    """Raise ValueError for a rerun that cannot be, before anything is started."""
    if out.resolve() == run.folder.resolve():
        raise ValueError(f"out={str(out)!r} is the run itself; give another --out")
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={str(out)!r} is a file; give another --out")
    check_same_run(parse_config(KINDS[run.kind], build_options(run, out)), out)
    ranks, gpus = run.settings["ranks"], torch.cuda.device_count()
    if run.settings["device"] == "cuda" and 0 < gpus < ranks:
        raise ValueError(
            f"run={str(run.folder)!r} had {ranks} GPUs, and here are {gpus}; rerun it where there are "
            "as many on one machine"
        )


def find_changes(run: FinishedRun) -> list[str]:
    """What is no longer as it was when the run was made."""
    device = run.settings["device"]
    here = device if torch.cuda.is_available() else "cpu"  # a run of a CPU stays on one
    now: dict[str, Any] = {
        "git_commit": git_commit(),
        "host": socket.gethostname(),
        "versions": versions(),
        "settings": {**machine(), "machines": 1, "device": here},
    }
    if device == "cpu":  # a GPU that has nothing to do
        del now["settings"]["gpu"]
    return describe_changes(run, now)


@contextmanager
def _passing_on(process: Popen[bytes]) -> Iterator[None]:
    """Signals go to the rerun, which saves before it ends; a terminal's Ctrl-C is there already."""

    def pass_on(number: int, _: Any) -> None:
        if number != signal.SIGINT:
            process.send_signal(number)

    before = {n: signal.signal(n, pass_on) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def rerun(run: FinishedRun, command: list[str], out: Path) -> None:
    """Run it, its output on ours.

    Raises ValueError if it does not come to its end; exits with 2 if it said itself that it cannot.
    """
    environment = dict(os.environ)
    if run.settings["device"] == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    directory = Path(run.summary["directory"])  # paths in its options may be relative to it
    place = directory if directory.is_dir() else None
    process = Popen(command, cwd=place, env=environment)
    with _passing_on(process):
        code = process.wait()
    if code == 2:  # a user's mistake, such as weights that are gone; its line is on the terminal
        sys.exit(2)
    if not (
        out / "summary.json"
    ).exists():  # one that diverged has a code of its own, and a summary
        raise ValueError(
            f"the rerun ended with exit code {code} and is not finished; its own words are above, and "
            "the same command resumes it"
        )


def tell(comparisons: list[Comparison], tolerance: float) -> None:
    """A line for each thing compared."""
    print(f"\n{'what':24} {'numbers':>10} {'different':>10} {'largest':>9}")
    for compared in comparisons:
        if not compared.different:
            verdict = "equal"
        else:
            passes = compared.passes(tolerance)
            verdict = f"{compared.largest:9.2g}" + ("  within the tolerance" if passes else "")
        print(f"{compared.what:24} {compared.numbers:10} {compared.different:10} {verdict:>9}")


def reproduce(folder: Path, config: ReproduceRunOptions) -> bool:
    """Rerun, compare, write reproduction.json; whether the run was reproduced."""
    run = read_finished(folder)
    beside = folder.resolve().with_name(f"{folder.resolve().name}-reproduced")
    out = Path(config.out).expanduser() if config.out else beside
    check_rerun(run, out)
    changes = find_changes(run)
    command = build_command(run, Path(__file__).resolve().parent, out)
    for change in changes:
        print(change)
    print(shlex.join(command), flush=True)
    rerun(run, command, out)
    comparisons = compare_finished(folder, out)
    tell(comparisons, config.tolerance)
    reproduced = all(compared.passes(config.tolerance) for compared in comparisons)
    told = [asdict(c) | {"equal": not c.different} for c in comparisons]
    for compared in told:  # JSON has no infinity
        compared["largest"] = compared["largest"] if math.isfinite(compared["largest"]) else None
    result = {
        "run": str(folder),
        "reproduced": reproduced,
        "tolerance": config.tolerance,
        "compared": told,
        "changes": changes,
        "command": shlex.join(command),
    }
    with atomic_file(out / "reproduction.json") as file:
        file.write((json.dumps(result, indent=2) + "\n").encode())
    return reproduced


def main() -> None:
    folder, *options = sys.argv[1:] or ["--help"]
    if folder in ("--help", "-h"):
        print("usage: reproduce_run.py RUN [options]\n")
        options = ["--help"]
    with user_errors("--debug" in options):
        if folder.startswith("-") and options != ["--help"]:
            raise ValueError(f"the folder of a run comes first, before {folder}")
        reproduced = reproduce(Path(folder), parse_config(ReproduceRunOptions, options))
    sys.exit(0 if reproduced else 1)


if __name__ == "__main__":
    main()
