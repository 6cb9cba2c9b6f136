"""Draw the curves of several runs in one picture: `python scripts/plot_runs.py runs/a runs/b`."""

import argparse
from pathlib import Path

from sslortho.train.reporting import draw_curves, read_metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="the picture")
    parser.add_argument("--title", default="", help="above the picture")
    arguments = parser.parse_args()
    for run in arguments.runs:
        if not (run / "metrics.jsonl").is_file():
            parser.error(f"{run} is no run folder: it has no metrics.jsonl")
    records = {run.name: read_metrics(run / "metrics.jsonl") for run in arguments.runs}
    draw_curves(arguments.out, records, arguments.title)
    print(arguments.out)


if __name__ == "__main__":
    main()
