"""Results of a soak: the tally, a table, the last line, chaos.json."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sslortho.atomic import atomic_file

from .registry import FAULTS


@dataclass
class Tally:
    """Faults injected and missed, and the runs compared.

    runs: an entry of chaos.json each.
    """

    faults: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    runs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def equal(self) -> int:
        return sum(not run["differences"] for run in self.runs)

    @property
    def sound(self) -> bool:
        """Whether every run ended equal and met all expectations."""
        return all(not run["differences"] and not run["problems"] for run in self.runs)


def summarise(tally: Tally) -> str:
    """The last line of the output."""
    faults, kinds = sum(tally.faults.values()), len(+tally.faults)
    line = (
        f"chaos: {faults} fault{'s' * (faults != 1)} of {kinds} kind{'s' * (kinds != 1)}; "
        f"{len(tally.runs)} run{'s' * (len(tally.runs) != 1)} compared, {tally.equal} equal"
    )
    wrong = sum(len(run["problems"]) for run in tally.runs)
    return line + (f"; {wrong} expectations not met" if wrong else "")


def print_table(tally: Tally) -> None:
    """Print how often each kind was injected, its description, and what was checked."""
    print(f"\n{'fault':16} {'count':>5}  what it is; what was checked")
    for name, count in sorted(tally.faults.items()):
        kind = FAULTS[name]
        what = (kind.__doc__ or "").splitlines()[0].rstrip(".")
        print(f"{name:16} {count:5}  {what}; {kind.expected}")


def write_results(path: Path, tally: Tally, settings: dict[str, Any], seconds: float) -> None:
    """Write chaos.json; `seconds` is the length of the soak."""
    report = {
        "summary": summarise(tally),
        "faults": dict(sorted(tally.faults.items())),
        "missed": dict(sorted(tally.missed.items())),
        "seconds": round(seconds, 1),
        "settings": settings,
        "runs": sorted(tally.runs, key=lambda run: run["run"]),
    }
    with atomic_file(path) as file:
        file.write((json.dumps(report, indent=2) + "\n").encode())
