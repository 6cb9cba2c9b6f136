"""Rerun of a finished run: started, and compared with the run."""

import json
import math
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
from sslortho.recipes.command_line import parse_options
from sslortho.recipes.reproduce_run.options import ReproduceRunOptions
from sslortho.recipes.run_options import RUN_OPTIONS
from sslortho.runs.config_file import check_same_run
from sslortho.runs.provenance import git_commit, machine, versions
from sslortho.runs.several.jobs import child_environment
from sslortho.runs.several.reproduction import (
    BitComparison,
    FinishedRun,
    build_arguments,
    build_command_line,
    compare_finished,
    describe_changes,
    describe_other_inputs,
    read_finished,
)


def check_rerun(run: FinishedRun, out: Path, program: str) -> None:
    """Raise ValueError for a rerun that is not possible, before anything is started."""
    if out.resolve() == run.folder.resolve():
        raise ValueError(f"out={str(out)!r} is the run itself; give another --out")
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={str(out)!r} is a file; give another --out")
    options = parse_options(RUN_OPTIONS[run.command], build_arguments(run, out), program)
    check_same_run(options, out)
    ranks, gpus = run.settings["ranks"], torch.cuda.device_count()
    if run.settings["device"] == "cuda" and 0 < gpus < ranks:
        raise ValueError(
            f"run={str(run.folder)!r} had {ranks} GPUs, and here are {gpus}; rerun it where there are "
            "as many on one machine"
        )


def find_changes(run: FinishedRun) -> list[str]:
    """Lines that say what has changed since the run was made."""
    device = run.settings["device"]
    here = device if torch.cuda.is_available() else "cpu"  # a run of a CPU stays on one
    now: dict[str, Any] = {
        "git_commit": git_commit(),
        "host": socket.gethostname(),
        "versions": versions(),
        "settings": {**machine(), "machines": 1, "device": here},
    }
    if device == "cpu":  # a GPU that the run does not use
        del now["settings"]["gpu"]
    return describe_changes(run, now)


@contextmanager
def _passing_on(process: Popen[bytes]) -> Iterator[None]:
    """Pass signals on to the rerun, which saves before it ends; a terminal sends it Ctrl-C itself."""

    def pass_on(number: int, _: Any) -> None:
        if number != signal.SIGINT:
            process.send_signal(number)

    before = {n: signal.signal(n, pass_on) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def rerun(run: FinishedRun, command: list[str], out: Path) -> None:
    """Start the command and wait; its output goes where ours goes.

    Raises ValueError if it does not finish; exits with 2 if it reported a user's mistake itself.
    """
    directory = Path(run.summary["directory"])  # paths in its options may be relative to it
    place = directory if directory.is_dir() else None
    environment = child_environment(place)
    if run.settings["device"] == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    process = Popen(command, cwd=place, env=environment)
    with _passing_on(process):
        code = process.wait()
    if code == 2:  # a user's mistake, such as weights that are gone; its line is on the terminal
        sys.exit(2)
    # not by the exit code: a run that diverged has 1, and a summary
    if not (out / "summary.json").exists():
        raise ValueError(
            f"the rerun ended with exit code {code} and is not finished; its own words are above, and "
            "the same command resumes it"
        )


def tell(comparisons: list[BitComparison], tolerance: float) -> None:
    """Print a line for each file compared."""
    print(f"\n{'what':24} {'numbers':>10} {'different':>10} {'largest':>9}")
    for compared in comparisons:
        if not compared.different:
            verdict = "equal"
        else:
            passes = compared.passes(tolerance)
            verdict = f"{compared.largest:9.2g}" + ("  within the tolerance" if passes else "")
        print(f"{compared.what:24} {compared.numbers:10} {compared.different:10} {verdict:>9}")


def _write_result(path: Path, comparisons: list[BitComparison], result: dict[str, Any]) -> None:
    compared = [asdict(c) | {"equal": not c.different} for c in comparisons]
    for entry in compared:  # JSON has no infinity
        entry["largest"] = entry["largest"] if math.isfinite(entry["largest"]) else None
    with atomic_file(path) as file:
        file.write((json.dumps({**result, "compared": compared}, indent=2) + "\n").encode())


def reproduce(folder: Path, options: ReproduceRunOptions, program: str) -> bool:
    """Rerun, compare, write reproduction.json; whether the run was reproduced.

    Args:
        folder: of a finished run.
        options: folder of the rerun, and tolerance.
        program: name for messages.

    Raises ValueError if there is nothing to rerun, or the rerun does not finish.
    """
    run = read_finished(folder, RUN_OPTIONS)
    beside = folder.resolve().with_name(f"{folder.resolve().name}-reproduced")
    out = Path(options.out) if options.out else beside
    check_rerun(run, out, program)
    changes = find_changes(run)
    command = build_command_line(run, out)
    for change in changes:
        print(change)
    print(shlex.join(command), flush=True)
    rerun(run, command, out)
    for change in (other_inputs := describe_other_inputs(run, out)):
        print(change)
    comparisons = compare_finished(folder, out)
    tell(comparisons, options.tolerance)
    reproduced = all(compared.passes(options.tolerance) for compared in comparisons)
    result = {
        "run": str(folder),
        "reproduced": reproduced,
        "tolerance": options.tolerance,
        "changes": [*changes, *other_inputs],
        "command": shlex.join(command),
    }
    _write_result(out / "reproduction.json", comparisons, result)
    return reproduced
