"""Draw the curves of several runs in one picture: `python scripts/plot_runs.py runs/a runs/b`."""

from pathlib import Path

from sslortho.recipes.command_line import PlainParser, user_errors
from sslortho.train.records import draw_curves, read_metrics


def main() -> None:
    parser = PlainParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="the picture")
    parser.add_argument("--title", default="", help="above the picture")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    arguments = parser.parse_args()
    with user_errors(arguments.debug):
        for run in arguments.runs:
            if not (run / "metrics.jsonl").is_file():
                raise ValueError(f"{run} is no run folder: it has no metrics.jsonl")
        records = {run.name: read_metrics(run / "metrics.jsonl") for run in arguments.runs}
        draw_curves(arguments.out, records, arguments.title)
    print(arguments.out)


if __name__ == "__main__":
    main()
