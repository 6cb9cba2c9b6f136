"""Calibrate the verdicts: healthy runs and runs that are broken on purpose, and what is said of them.

    python benchmarks/verdicts.py run --cifar DIR        # trains what the file lacks, a line for each
    python benchmarks/verdicts.py table                  # what was said of them, as Markdown
    python benchmarks/verdicts.py pictures               # a good run beside a bad one

DIR holds train/<class> and test/<class>. Training can be stopped at any time: finished runs are kept.
"""

import argparse
import sys
from pathlib import Path

from json_lines import add_line, read_lines
from verdict_runs.breaks import COMMON, METHOD_NAMES, OWN

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "docs" / "verdicts" / "runs.jsonl"


def plan_runs(given: argparse.Namespace) -> list:
    """All runs, seed by seed, so that an early stop leaves whole seeds."""
    from verdict_runs.run import Plan

    order = [*COMMON, *dict.fromkeys(kind for own in OWN.values() for kind in own)]
    return [
        Plan(method, data, kind, seed, given.backbone, given.epochs)
        for seed in given.seeds
        for kind in given.kinds or order
        for method in given.methods
        if kind in COMMON or kind in OWN[method]
        for data in given.data
    ]


def run_all(given: argparse.Namespace) -> None:
    """Train what the file lacks."""
    from verdict_runs.images import load_digits, load_folder
    from verdict_runs.run import carry_out

    data = {}
    if "digits" in given.data:
        data["digits"] = load_digits()
    if "cifar" in given.data:
        if given.cifar is None:
            raise SystemExit("verdicts.py: --cifar is needed, or --data digits")
        data["cifar"] = load_folder(given.cifar)
    done = {run["name"] for run in read_lines(given.runs)}
    todo = [plan for plan in plan_runs(given) if plan.name not in done]
    for number, plan in enumerate(todo, 1):
        line = carry_out(plan, data[plan.data])
        add_line(given.runs, line)
        print(
            f"[{number}/{len(todo)}] {plan.name}: {line['seconds']} s", file=sys.stderr, flush=True
        )


CALIBRATED_ON = 0
"""Seed of the runs that the thresholds were fitted to; the tables are of the others."""


def show_tables(given: argparse.Namespace) -> None:
    from verdict_runs.table import confuse, list_methods, summarise

    runs = [run for run in read_lines(given.runs) if run["backbone"] == given.backbone]
    held_out = [run for run in runs if run["seed"] != CALIBRATED_ON]
    halves = {
        f"Runs that the thresholds were not fitted to ({len(held_out)})": held_out,
        f"Runs that they were fitted to ({len(runs) - len(held_out)})":
            [run for run in runs if run["seed"] == CALIBRATED_ON],
    }  # fmt: skip
    for title, chosen in halves.items():
        for labels in (True, False) if chosen else ():
            known = "with labels" if labels else "without labels"
            print(f"### {title}, {known}", "", *summarise(chosen, runs, labels), "", sep="\n")
            print(*confuse(chosen, labels), "", sep="\n")
    print("### Method by method, all runs, with labels", "", *list_methods(runs, True), sep="\n")


def draw_pictures(given: argparse.Namespace) -> None:
    from verdict_runs.table import draw

    runs = [r for r in read_lines(given.runs) if (r["seed"], r["backbone"]) == (0, given.backbone)]
    draw(runs, given.runs.parent)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["run", "table", "pictures"])
    parser.add_argument("--cifar", type=Path, help="folder with train/<class> and test/<class>")
    parser.add_argument(
        "--data", nargs="+", default=["digits", "cifar"], choices=["digits", "cifar"]
    )
    parser.add_argument("--runs", type=Path, default=RUNS, help="the file of runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--methods", nargs="+", default=list(METHOD_NAMES), choices=METHOD_NAMES)
    parser.add_argument("--kinds", nargs="+", help="ways to break a run; default: all")
    parser.add_argument("--epochs", type=int, default=8, help="of 16 steps")
    parser.add_argument("--backbone", default="tiny", help="tiny, or a backbone's name")
    given = parser.parse_args()
    commands = {"run": run_all, "table": show_tables, "pictures": draw_pictures}
    commands[given.command](given)


if __name__ == "__main__":
    main()
