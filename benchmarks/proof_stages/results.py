"""Results of the units: a file each, written at once; and all of them in one."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslortho.atomic import atomic_file

Result = dict[str, Any]
"""{"state": "running", "done", "failed" or "skipped", "seconds": ..., "error": ..., "figures": {...}};
beside figures also the "commit" and the name of the "gpu" that they are of."""

WHOLE = "gpu_proof.json"


def write_json(path: Path, content: Any) -> None:
    """Write a file that is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class Results:
    """Results in a folder."""

    folder: Path

    def _path(self, unit: str) -> Path:
        return self.folder / "results" / f"{unit}.json"

    def read(self, unit: str) -> Result:
        """Result of a unit; empty where there is none."""
        return _read_json(self._path(unit)) or {}

    def state(self, unit: str) -> str:
        """State of a unit; "pending" where it has not begun."""
        return self.read(unit).get("state", "pending")

    def write(self, unit: str, state: str, **entries: Any) -> None:
        """Write the result of a unit."""
        write_json(self._path(unit), {"state": state, **entries})

    def begin(self, unit: str) -> None:
        """Say that a unit runs, since now."""
        self.write(unit, "running", since=time.time())

    def forget(self, unit: str) -> None:
        """Make a unit pending again."""
        self._path(unit).unlink(missing_ok=True)

    def collect(self) -> dict[str, Result]:
        """All results by the name of their unit."""
        folder = self.folder / "results"
        names = sorted(path.stem for path in folder.glob("*.json")) if folder.is_dir() else []
        return {name: self.read(name) for name in names}

    def write_whole(self) -> None:
        """Write all results into one file, which is enough for the tables."""
        write_json(self.folder / WHOLE, self.collect())


def read_whole(path: Path) -> dict[str, Result]:
    """Results from the one file, or from the folder that holds it. Raises ValueError without one."""
    if path.is_dir() and (found := Results(path).collect()):
        return found
    found = _read_json(path / WHOLE if path.is_dir() else path)
    if not isinstance(found, dict):
        raise ValueError(f"{str(path)!r} is neither a folder of gpu_proof.py nor its {WHOLE}")
    return found
