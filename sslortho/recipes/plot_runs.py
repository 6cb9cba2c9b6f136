"""Curves of several runs in one picture: `sslortho plot_runs runs/a runs/b`."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def read_curves(run: Path) -> list[dict[str, Any]]:
    """Records of a run's metrics.jsonl, and at the end the figures that its summary.json alone has.

    Raises ValueError for a folder without metrics.jsonl.
    """
    if not (run / "metrics.jsonl").is_file():
        raise ValueError(f"{run} is not a run folder: it has no metrics.jsonl")
    from sslortho.runs.curves import curve_names
    from sslortho.runs.folder import RunFolder
    from sslortho.train.records import read_metrics

    records = read_metrics(run / "metrics.jsonl")
    summary = RunFolder(run).read_summary() or {}
    step = summary.get("steps")
    known = {name for record in records if record.get("step") == step for name in record}
    # the loss of a summary is that of the last record
    missing = {
        name: summary[name]
        for name in sorted(curve_names() - known - {"loss"})
        if isinstance(summary.get(name), int | float)
    }
    return [*records, {"step": step, **missing}] if step is not None and missing else records


def label_runs(runs: Sequence[Path]) -> dict[str, Path]:
    """Label of each run: the name of its folder; its whole path where several have that name."""
    places = {run.expanduser().resolve(): run.expanduser() for run in runs}
    names = Counter(place.name for place in places)
    return {
        place.name if names[place.name] == 1 else str(place): run for place, run in places.items()
    }


def main(arguments: Sequence[str], program: str) -> int:
    """The command `plot_runs`; the exit code."""
    from sslortho.recipes.command_line import PlainParser, user_errors

    parser = PlainParser(prog=program, description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="the picture")
    parser.add_argument("--title", default="", help="above the picture")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    given = parser.parse_args(arguments)
    with user_errors(given.debug, program):
        from sslortho.evaluate.figures import check_picture
        from sslortho.runs.curves import draw_curves

        out = given.out.expanduser()
        check_picture(out, "out")
        records = {label: read_curves(run) for label, run in label_runs(given.runs).items()}
        out.parent.mkdir(parents=True, exist_ok=True)
        draw_curves(out, records, given.title)
    print(out)
    return 0
