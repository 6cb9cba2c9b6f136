"""Speedrun: minutes to a kNN accuracy on CIFAR-10, from random weights, without labels; docs/speedrun.

    python benchmarks/speedrun.py ours --cifar DIR       # configs/fast_cifar10.yaml, three seeds
    python benchmarks/speedrun.py lightly --cifar DIR    # lightly's recipes, as long as ours, twice, four times
    python benchmarks/speedrun.py lightly --cifar DIR --rates 0.2 0.6 --factors 1    # with other rates
    python benchmarks/speedrun.py table                  # the results as Markdown

DIR holds train/CLASS and test/CLASS. What finishes is kept at once; the same command goes on.
"""

import argparse
import itertools
import statistics
from pathlib import Path

from json_lines import read_lines
from speedrun_parts.entrants import BATCH, HEADS, RATE, Task, run_lightly, run_ours
from speedrun_parts.records import (
    OURS,
    add_record,
    check_same_config,
    check_same_settings,
    group_records,
    write_table,
)

ROOT = Path(__file__).resolve().parents[1]


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("ours", "lightly", "table"))
    parser.add_argument("--cifar", type=Path, help="folder with train/CLASS and test/CLASS")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "fast_cifar10.yaml")
    parser.add_argument("--network", default="resnet20", help="backbone of lightly's recipes")
    parser.add_argument("--methods", nargs="+", choices=tuple(HEADS), default=list(HEADS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument(
        "--factors", nargs="+", type=float, default=[1, 2, 4],
        help="lengths of lightly's runs, as multiples of our mean time",
    )  # fmt: skip
    parser.add_argument("--batch_size", type=int, default=BATCH, help="of lightly's recipes")
    parser.add_argument(
        "--rates", nargs="+", type=float, default=[RATE], help=f"of lightly's recipes, for {BATCH}"
    )
    parser.add_argument("--target", type=float, default=50.0, help="kNN accuracy in percent")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's own number")
    parser.add_argument(
        "--records", type=Path, default=ROOT / "docs" / "speedrun" / "records.jsonl"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/speedrun"))
    given = parser.parse_args()
    if given.command != "table" and (given.cifar is None or not (given.cifar / "train").is_dir()):
        parser.error(f"--cifar {given.cifar}: no folder with train/CLASS and test/CLASS; give one")
    return given


def is_there(records: list[dict], entrant: str, factor: float, seed: int) -> bool:
    """Whether a run is among the records."""
    wanted = entrant, factor, seed
    return any((r["entrant"], r["factor"], r["seed"]) == wanted for r in records)


def train_ours(given: argparse.Namespace, task: Task) -> None:
    """Train the seeds that the file lacks."""
    for seed in given.seeds:
        if not is_there(read_lines(given.records), OURS, 1.0, seed):
            found = run_ours(task, given.config, seed)
            add_record(given.records, {"entrant": OURS, "factor": 1.0, **found})


def name_lightly(method: str, rate: float, batch_size: int) -> str:
    """Name of a recipe, with what differs from lightly's."""
    own = [f"rate {rate:g}"] if rate != RATE else []
    own += [f"batch {batch_size}"] if batch_size != BATCH else []
    return ", ".join(["lightly", method, *own])


def train_lightly(given: argparse.Namespace, task: Task) -> None:
    """Train each recipe at each length, up to the first one whose mean reaches the target."""
    ours = group_records(read_lines(given.records)).get((OURS, 1.0))
    if not ours:
        raise SystemExit("speedrun.py: run `speedrun.py ours` first; its time sets that of lightly")
    seconds = statistics.mean(run["seconds"] for run in ours)
    for method, rate in itertools.product(given.methods, given.rates):
        entrant = name_lightly(method, rate, given.batch_size)
        for factor in sorted(given.factors):
            for seed in given.seeds:
                if not is_there(read_lines(given.records), entrant, factor, seed):
                    length = factor * seconds
                    found = run_lightly(task, method, seed, length, given.batch_size, rate)
                    add_record(given.records, {"entrant": entrant, "factor": factor, **found})
            runs = group_records(read_lines(given.records))[entrant, factor]
            if statistics.mean(run["knn_top1"] for run in runs) >= given.target:
                break


def main() -> None:
    """Do what the command line says."""
    given = parse()
    if given.command == "table":
        print(write_table(read_lines(given.records), given.target))
        return
    task = Task(given.cifar, given.work, given.threads, given.network)
    try:
        check_same_settings(read_lines(given.records), task.settings)
        if given.command == "ours":
            check_same_config(read_lines(given.records), given.config)
    except (ValueError, OSError) as error:
        raise SystemExit(f"speedrun.py: --records {given.records}: {error}") from error
    (train_ours if given.command == "ours" else train_lightly)(given, task)
    print(write_table(read_lines(given.records), given.target))


if __name__ == "__main__":
    main()
