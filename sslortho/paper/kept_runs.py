"""Figures of finished runs in one file, so that an experiment can be taken up on another machine."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from sslortho.atomic import atomic_file
from sslortho.paper.run_records import read_records, read_summary
from sslortho.paper.tuning import FOLDER, has_diverged
from sslortho.runs.status import read_status, write_status
from sslortho.train.backward import NonFiniteError

FOLDERS = (FOLDER, "runs")
"""Folders of an experiment that hold run folders."""

LOCAL = ("command", "directory", "host", "settings", "data_dir", "out", "run folder")
"""Entries of a summary, its plan and its options that are left out: they say where a run was."""


def _read_run(folder: Path) -> dict[str, Any] | None:
    """Summary and records of a finished run, or that it diverged; None for any other."""
    summary = read_summary(folder)
    if summary is None:
        status = read_status(folder)
        if status is None or not has_diverged(folder):
            return None
        return {"diverged": status.message, **_read_config(folder)}
    kept = {name: value for name, value in summary.items() if name not in LOCAL}
    kept["config"] = {n: v for n, v in summary["config"].items() if n not in LOCAL}
    if "plan" in kept:
        kept["plan"] = {n: v for n, v in summary["plan"].items() if n not in LOCAL}
    if folder.parent.name == FOLDER:  # no report shows the records of a trial
        return {"summary": kept, "records": []}
    return {"summary": kept, "records": read_records(folder)}


def _read_config(folder: Path) -> dict[str, Any]:
    """Options of a run without a summary, under "config"; empty if it has no config.yaml."""
    try:
        stored = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return {"config": {name: value for name, value in stored.items() if name not in LOCAL}}


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    text = yaml.safe_dump(config, sort_keys=False)
    (folder / "config.yaml").write_text(text, encoding="utf-8")


def _find_runs(out: Path) -> Iterator[tuple[str, Path]]:
    for name in FOLDERS:
        folder = out / name
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                if not path.name.startswith("."):  # one that is being restored
                    yield f"{name}/{path.name}", path


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Runs of the file by name. Raises ValueError if it is damaged."""
    if not path.exists():
        return {}
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            found[entry.pop("name")] = entry
        except (ValueError, AttributeError, KeyError):
            raise ValueError(f"kept={str(path)!r}: line {number} is no run; remove it") from None
    return found


def restore_runs(path: Path, out: Path) -> int:
    """Write the runs of the file that `out` lacks as run folders without weights; their number.

    Raises ValueError for a damaged file.
    """
    count = 0
    for name, entry in _read(path).items():
        kind, _, run = name.partition("/")
        folder = out / kind / run
        if kind not in FOLDERS or not run or folder.exists():
            continue
        partial = folder.with_name(f".{run}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # of a call that was killed
        partial.mkdir(parents=True)
        _write_run(partial, entry)
        partial.rename(folder)
        count += 1
    return count


def _write_run(folder: Path, entry: dict[str, Any]) -> None:
    """Write the files of a run of the file."""
    if "summary" not in entry:
        write_status(folder, "failed", entry["diverged"], NonFiniteError.__name__)
        if "config" in entry:
            _write_config(folder, entry["config"])
        return
    records = "".join(json.dumps(record) + "\n" for record in entry["records"])
    (folder / "metrics.jsonl").write_text(records, encoding="utf-8")
    _write_config(folder, entry["summary"]["config"])
    with atomic_file(folder / "summary.json") as file:
        file.write(json.dumps(entry["summary"], indent=2).encode())


def keep_runs(path: Path, out: Path, belongs: Callable[[Path], bool]) -> list[str]:
    """Write finished runs of `out`, and those that the file has already, a line each by name.

    Args:
        path: the file. Made if need be.
        out: folder of the experiment.
        belongs: whether the run in a folder has the options that are asked for.

    Returns: names of the finished runs that do not belong, and are not written.

    Raises ValueError for a damaged file.
    """
    runs, left = _read(path), []
    for name, folder in _find_runs(out):
        if name in runs or (entry := _read_run(folder)) is None:
            continue
        if belongs(folder):
            runs[name] = entry
        else:
            left.append(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        for name in sorted(runs):
            file.write((json.dumps({"name": name, **runs[name]}) + "\n").encode())
    return left
