"""Curves of several runs in one picture: `sslortho plot_runs runs/a runs/b`."""

from collections.abc import Sequence
from pathlib import Path


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
        for run in given.runs:
            if not (run / "metrics.jsonl").is_file():
                raise ValueError(f"{run} is not a run folder: it has no metrics.jsonl")
        from sslortho.runs.curves import draw_curves
        from sslortho.train.records import read_metrics

        records = {run.name: read_metrics(run / "metrics.jsonl") for run in given.runs}
        out = given.out.expanduser()
        draw_curves(out, records, given.title)
    print(out)
    return 0
