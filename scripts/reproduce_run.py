"""Rerun a finished run and compare: `python scripts/reproduce_run.py runs/x`.

The same script with the same options, ranks and threads, in another folder; then weights, records and
figures, number by number. Exit code 0 if all are the same bits (or within --tolerance), else 1. The same
command resumes a rerun that was cut short.
"""

import argparse
import json
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sslortho.config import user_errors
from sslortho.experiments.same_run import (
    Comparison,
    build_command,
    compare_finished,
    describe_changes,
    read_finished,
)
from sslortho.train.provenance import git_commit, versions


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--out", type=Path, help="folder of the rerun; default RUN-reproduced")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        help="largest difference that passes, as a share of the largest number beside it; default 0",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser.parse_args()


def rerun(folder: Path, out: Path) -> None:
    """Say what has changed since, and run."""
    run = read_finished(folder)
    if out.resolve() == folder.resolve():
        raise ValueError(f"out={str(out)!r} is the run itself; give another --out")
    for change in describe_changes(run, {"git_commit": git_commit(), "versions": versions()}):
        print(f"since then: {change}")
    command = build_command(run, Path(__file__).resolve().parent, out)
    print(shlex.join(command), flush=True)
    directory = Path(run.summary["directory"])  # paths in its options may be relative to it
    done = subprocess.run(command, check=False, cwd=directory if directory.is_dir() else None)
    if done.returncode or not (out / "summary.json").exists():
        raise ValueError(
            f"the rerun ended with exit code {done.returncode} and is not finished; its own words are "
            "above, and the same command resumes it"
        )


def tell(comparisons: list[Comparison], tolerance: float) -> bool:
    """A line for each thing compared; whether all pass."""
    for compared in comparisons:
        verdict = f"{compared.different} differ, by {compared.largest:.1e} at most"
        print(
            f"{compared.what:24} {compared.numbers:10} numbers: "
            f"{verdict if compared.different else 'the same bits'}"
        )
    return all(c.largest <= tolerance for c in comparisons)


def main() -> None:
    arguments = parse_arguments()
    folder: Path = arguments.run
    with user_errors(arguments.debug):
        if not 0 <= arguments.tolerance < float("inf"):
            raise ValueError(f"tolerance={arguments.tolerance} must be 0 or more")
        out: Path = arguments.out or folder.with_name(f"{folder.resolve().name}-reproduced")
        rerun(folder, out)
        comparisons = compare_finished(folder, out)
        reproduced = tell(comparisons, arguments.tolerance)
        result: dict[str, Any] = {
            "run": str(folder),
            "reproduced": reproduced,
            "tolerance": arguments.tolerance,
            "compared": [asdict(compared) for compared in comparisons],
        }
        (out / "reproduction.json").write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(0 if reproduced else 1)


if __name__ == "__main__":
    main()
