"""Table of runs, seeds taken together: `sslortho compare runs/* [--figures top1,knn_top1]`.

Prints a row for the runs that differ only in their seed, with mean and standard error of each figure
of their summary.json, and writes it to compare.md and compare.csv. Each method of pretraining, each kind
of evaluation and supervised training have a table of their own in compare.md; compare.csv has all rows.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sslortho.runs.several.comparison import Comparison
    from sslortho.runs.several.identity import Run


def _read_summary(folder: Path) -> dict[str, Any] | None:
    """Content of summary.json; None where it is missing or broken."""
    try:
        summary = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):
        return None
    complete = isinstance(summary, dict) and isinstance(summary.get("config"), dict)
    return summary if complete else None


def _is_run(folder: Path) -> bool:
    """Whether a run was begun in a folder."""
    return any((folder / n).exists() for n in ("summary.json", "config.yaml", "metrics.jsonl"))


def read_run(folder: Path) -> "Run | None":
    """The run in a folder; None if it has not finished. Raises ValueError for a broken summary."""
    from sslortho.runs.several.identity import Run

    if not (folder / "summary.json").exists():
        return None
    summary = _read_summary(folder)
    if summary is None:
        raise ValueError(f"{folder / 'summary.json'} is broken, or of no run; leave {folder} out")
    source, origin = summary["config"].get("backbone_from"), None
    if isinstance(source, str):
        path = Path(source).expanduser()
        origin = _read_summary(path.parent if path.name == "backbone.safetensors" else path)
    return Run(str(folder), summary, origin and origin["config"])


def read_runs(paths: list[Path]) -> "list[Run]":
    """The finished runs in some folders; names on stderr the paths that are left out.

    Raises ValueError for a path that does not exist.
    """
    if absent := [path for path in paths if not path.exists()]:
        raise ValueError(f"{absent[0]} does not exist")
    # runs/* finds logs, tables and folders of runs too
    others = [path for path in paths if not path.is_dir() or not _is_run(path)]
    folders = list({path.resolve(): path for path in paths if path not in others}.values())
    found = [(folder, read_run(folder)) for folder in folders]
    unfinished = [folder for folder, run in found if run is None]
    for reason, left_out in (("unfinished", unfinished), ("no runs", others)):
        if left_out:
            print(f"left out, {reason}: {', '.join(map(str, left_out))}", file=sys.stderr)
    return [run for _, run in found if run is not None]


KINDS = {
    "method": "Pretraining",
    "head_classes": "Supervised training",
    "protocol": "Linear evaluation",
    "preset": "Nearest neighbours",
}
"""Option that runs of one kind alone have, to the kind."""


def group_by_kind(runs: "Sequence[Run]") -> "dict[str, list[Run]]":
    """Runs of each kind, in the order of KINDS; "Others" where their options do not tell.

    A method of pretraining is a kind, since each has a loss of its own.
    """
    found: dict[str, dict[str, list[Run]]] = {kind: {} for kind in (*KINDS.values(), "Others")}
    for run in runs:
        kind = next((kind for name, kind in KINDS.items() if name in run.config), "Others")
        method = run.config.get("method")
        found[kind].setdefault(f"{kind}, {method}" if method else kind, []).append(run)
    return {title: kinds[title] for kinds in found.values() for title in sorted(kinds)}


def describe_kinds(
    runs: "Sequence[Run]", figures: Sequence[str] | None, by: Sequence[str] | None
) -> str:
    """Table of each kind of runs as Markdown, with headings if there are several kinds.

    A loss or an accuracy is the best among runs of one kind alone: those of others have other scales. So
    have losses of one method with other options of its own.

    Args:
        runs: of any kinds.
        figures, by: as for `compare_runs`; a kind has those of them that it knows.
    """
    from sslortho.recipes.run_options import ignored_options, loss_options
    from sslortho.runs.several.comparison import compare_runs, figure_names
    from sslortho.runs.several.comparison_tables import to_markdown

    kinds, parts = group_by_kind(runs), []
    for kind, members in kinds.items():
        shown, labels = figures, by
        if len(kinds) > 1:  # that each name is known to some run has been checked
            shown = figures and [name for name in figures if name in figure_names(members)]
            labels = by and [name for name in by if any(name in run.config for run in members)]
            parts.append(f"## {kind}\n")
        table = compare_runs(
            members, shown, labels, ignored=ignored_options(), always=("backbone_from",), brief=True
        )
        parts.append(to_markdown(table, loss_options()))
    return "\n".join(parts)


def write_tables(text: str, comparison: "Comparison", stem: Path) -> list[Path]:
    """Write STEM.md and STEM.csv; their paths.

    Args:
        text: content of STEM.md.
        comparison: of all runs, for STEM.csv.
        stem: path without ending.
    """
    from sslortho.atomic import atomic_file
    from sslortho.runs.several.comparison_tables import to_csv

    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = list[Path]()
    for suffix, content in ((".md", text), (".csv", to_csv(comparison))):
        path = stem.with_name(stem.name.removesuffix(".md").removesuffix(".csv") + suffix)
        with atomic_file(path) as file:
            file.write(content.encode())
        paths.append(path)
    return paths


def main(arguments: Sequence[str], program: str) -> int:
    """The command `compare`; the exit code."""
    from sslortho.recipes.command_line import PlainParser, user_errors

    parser = PlainParser(prog=program, description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--figures", help="names in summary.json, with commas; default all")
    parser.add_argument("--by", help="options, with commas: runs that agree in these are one row")
    parser.add_argument("--out", default="compare", help="files to write, without .md and .csv")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    given = parser.parse_args(arguments)
    figures, by = (
        [name.strip() for name in text.split(",")] if text else None
        for text in (given.figures, given.by)
    )
    with user_errors(given.debug, program):
        from sslortho.recipes.run_options import ignored_options
        from sslortho.runs.several.comparison import compare_runs

        runs = read_runs(given.runs)
        comparison = compare_runs(runs, figures, by, ignored=ignored_options())
        text = describe_kinds(runs, figures, by)
        paths = write_tables(text, comparison, Path(given.out).expanduser())
        print(text)
        print(*paths, sep="\n")
    return 0
