"""What a soak leaves: a table, a line, chaos.json."""

import json
from pathlib import Path
from typing import Any

from chaos_soak.soak import FAULTS, Tally
from sslortho.atomic import atomic_file


def describe(tally: Tally) -> str:
    """The last line."""
    faults, kinds = sum(tally.faults.values()), len(+tally.faults)
    line = (
        f"chaos: {faults} fault{'s' * (faults != 1)} of {kinds} kind{'s' * (kinds != 1)}; "
        f"{len(tally.runs)} run{'s' * (len(tally.runs) != 1)} compared, {tally.equal} equal"
    )
    wrong = sum(len(run["problems"]) for run in tally.runs)
    return line + (f"; {wrong} expectations not met" if wrong else "")


def print_table(tally: Tally) -> None:
    """How often each kind was injected, what it is, and what was checked."""
    print(f"\n{'fault':16} {'count':>5}  what it is; what was checked")
    for name, count in sorted(tally.faults.items()):
        kind = FAULTS[name]
        what = (kind.__doc__ or "").splitlines()[0].rstrip(".")
        print(f"{name:16} {count:5}  {what}; {kind.expected}")


def write_report(path: Path, tally: Tally, settings: dict[str, Any], seconds: float) -> None:
    """chaos.json."""
    report = {
        "summary": describe(tally),
        "faults": dict(sorted(tally.faults.items())),
        "missed": dict(sorted(tally.missed.items())),
        "seconds": round(seconds, 1),
        "settings": settings,
        "runs": sorted(tally.runs, key=lambda run: run["run"]),
    }
    with atomic_file(path) as file:
        file.write((json.dumps(report, indent=2) + "\n").encode())
