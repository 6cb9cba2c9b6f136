"""asked.json of an experiment's folder: the options that its runs were started with."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from sslortho.atomic import atomic_file
from sslortho.paper.reproduce.options import ReproduceOptions

FILE = "asked.json"


def _read(path: Path) -> dict[str, Any]:
    """Content of the file. Raises ValueError if `remember` did not write it."""
    try:
        stored = json.loads(path.read_text())
        if isinstance(stored["experiment"], str) and isinstance(stored["asked"], dict):
            return stored
    except (ValueError, TypeError, KeyError):
        pass
    raise ValueError(f"{path} is damaged; remove it, or give another --out")


def recall(options: ReproduceOptions, name: str, out: Path) -> ReproduceOptions:
    """The options; for a report, those that are not given are the ones that the runs were started with.

    Args:
        options: as given.
        name: of the experiment.
        out: folder of the runs.

    Raises ValueError if the folder belongs to another experiment, and for a report of no folder.
    """
    path = out / FILE
    if options.report and options.out is not None and options.kept is None and not out.is_dir():
        raise ValueError(f"out={str(out)!r} is not a folder, so there is nothing to report")
    if not path.exists():
        return options
    stored = _read(path)
    if stored["experiment"] != name:
        raise ValueError(
            f"out={str(out)!r} holds {stored['experiment']}, not {name}; give another --out"
        )
    if not options.report:
        return options
    silent = {n: v for n, v in stored["asked"].items() if getattr(options, n, None) is None}
    return replace(options, **silent)


def remember(options: ReproduceOptions, name: str, out: Path) -> None:
    """Write the options down; rows and columns join those of earlier calls."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / FILE
    asked = {n: v for n, v in options.asked.items() if n != "out"}
    if path.exists():
        before = _read(path)["asked"].get("only")
        keys = [*(before or "").split(","), *options.keys]
        asked["only"] = ",".join(dict.fromkeys(keys)) if before and options.only else None
    with atomic_file(path) as file:
        file.write(json.dumps({"experiment": name, "asked": asked}, indent=2).encode())
