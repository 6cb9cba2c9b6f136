"""Compare runs, seeds taken together: `python scripts/compare.py runs/* [--figures top1,knn_top1]`.

Prints a row for the runs that differ in their seed alone, with mean and standard error of each figure
of their summary.json, and writes it to compare.md and compare.csv.
"""

import json
import sys
from pathlib import Path
from typing import Any

from sslortho.atomic import atomic_file
from sslortho.recipes.command_line import PlainParser, user_errors
from sslortho.runs.comparison import Run, compare_runs
from sslortho.runs.tables import to_csv, to_markdown
from sslortho.runs.comparison import Comparison


def read_summary(folder: Path) -> dict[str, Any] | None:
    """summary.json of a run folder; None where there is none, or one that is broken."""
    try:
        summary = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):
        return None
    complete = isinstance(summary, dict) and isinstance(summary.get("config"), dict)
    return summary if complete else None


def is_run(folder: Path) -> bool:
    """Whether a run was begun there."""
    return any((folder / n).exists() for n in ("summary.json", "config.yaml", "metrics.jsonl"))


def read_run(folder: Path) -> Run | None:
    """The run in a folder; None if it has not finished.

    Raises ValueError for a summary that is none.
    """
    if not (folder / "summary.json").exists():
        return None
    summary = read_summary(folder)
    if summary is None:
        raise ValueError(f"{folder / 'summary.json'} is broken, or of no run; leave {folder} out")
    source, origin = summary["config"].get("backbone_from"), None
    if isinstance(source, str):
        path = Path(source).expanduser()
        origin = read_summary(path.parent if path.name == "backbone.safetensors" else path)
    return Run(str(folder), summary, origin and origin["config"])


def read_runs(paths: list[Path]) -> list[Run]:
    """The finished runs of some folders; names on stderr what is left out."""
    if absent := [path for path in paths if not path.exists()]:
        raise ValueError(f"{absent[0]} does not exist")
    # runs/* finds logs, tables and folders of runs too
    others = [path for path in paths if not path.is_dir() or not is_run(path)]
    folders = list({path.resolve(): path for path in paths if path not in others}.values())
    found = [(folder, read_run(folder)) for folder in folders]
    unfinished = [folder for folder, run in found if run is None]
    for what, left_out in (("unfinished", unfinished), ("no runs", others)):
        if left_out:
            print(f"left out, {what}: {', '.join(map(str, left_out))}", file=sys.stderr)
    return [run for _, run in found if run is not None]


def write_tables(comparison: Comparison, stem: Path) -> None:
    """Both tables beside each other; names them on the terminal."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".md", to_markdown(comparison)), (".csv", to_csv(comparison))):
        path = stem.with_name(stem.name.removesuffix(".md").removesuffix(".csv") + suffix)
        with atomic_file(path) as file:
            file.write(text.encode())
        print(path)


def main() -> None:
    parser = PlainParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--figures", help="names in summary.json, with commas; default all")
    parser.add_argument("--by", help="options, with commas: runs that agree in these are one row")
    parser.add_argument("--out", default="compare", help="what to write, without .md and .csv")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    arguments = parser.parse_args()
    figures, by = (
        [name.strip() for name in text.split(",")] if text else None
        for text in (arguments.figures, arguments.by)
    )
    with user_errors(arguments.debug):
        comparison = compare_runs(read_runs(arguments.runs), figures, by)
        print(to_markdown(comparison))
        write_tables(comparison, Path(arguments.out).expanduser())


if __name__ == "__main__":
    main()
