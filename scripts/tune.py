"""Bayesian search for hyperparameters of supervised training:
`python scripts/tune.py --data cifar10 --data_dir D --backbone resnet20 --optim orth_sgd --epochs 20`.

Each trial is a run of supervised.py in its own folder. Starting the same command again goes on with
the search, trials that were cut short included.
"""

import json
import math
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

from sslortho.atomic import atomic_file
from sslortho.config import TuneConfig, parse_config, user_errors
from sslortho.experiments.runner import Job, Runner, visible_gpus
from sslortho.experiments.tuning import Range, Search, Trial, draw_search, write_search
from sslortho.optim.registry import accepted_options

BETA2 = 0.999
"""Of adam, where betas are searched and none are given; torch's default."""


def ranges(config: TuneConfig) -> list[Range]:
    """What is searched."""
    found = {name: getattr(config, f"{name}_range") for name in config.searched}
    return [Range(name, *bounds, log=name != "momentum") for name, bounds in found.items()]


def trial_options(config: TuneConfig, values: dict[str, float]) -> dict[str, Any]:
    """Options of supervised.py for a trial of these values."""
    options = {**config.fixed, **values}
    if "momentum" in values and "momentum" not in accepted_options(config.optim):
        beta1 = options.pop("momentum")
        options["betas"] = [beta1, config.betas[1] if config.betas else BETA2]
    if config.decay_all:
        options["weight_decay_biases"] = options["weight_decay"]
    return options


def plan(config: TuneConfig, trial: Trial, folder: Path) -> Job:
    """The run of a trial."""
    name = f"trial-{trial.number:04}"
    return Job(
        name=name,
        script=Path(__file__).parent / "supervised.py",
        options=trial_options(config, dict(trial.values)),
        folder=folder / "trials" / name,
        log=folder / "logs" / f"{name}.log",
    )


def read_objective(config: TuneConfig, job: Job) -> float | None:
    """The objective of a run; the worst there is if it diverged, None if it has not finished."""
    if not job.finished:
        return None
    summary = json.loads((job.folder / "summary.json").read_text())
    if summary["diverged"] or summary[config.objective] is None:
        return 0.0 if config.objective == "val_top1" else math.inf
    return summary[config.objective]


def search_on(config: TuneConfig, search: Search, folder: Path) -> int | None:
    """Trials until there are enough; the number of the signal that stopped them, if one did."""
    gpus = visible_gpus()
    places = [gpus[i % len(gpus)] if gpus else None for i in range(config.jobs or len(gpus) or 1)]
    while (left := config.trials - search.ended) > 0:
        trials = search.next_trials(min(left, len(places)))
        jobs = {trial.number: plan(config, trial, folder) for trial in trials}
        stopped = Runner(places).run(list(jobs.values())).signal
        for trial in trials:
            value = read_objective(config, jobs[trial.number])
            if value is not None or stopped is None:
                search.tell(trial, value)
        write_search(search, config.objective, folder, shlex.join(["python", *sys.argv]))
        if stopped is not None:
            break
    else:
        stopped = None
    draw_search(search, config.objective, folder / "search.png")
    return stopped


def tell(config: TuneConfig, search: Search, folder: Path) -> None:
    """The best trial, on the terminal and as best.yaml for supervised.py."""
    ranking = search.ranking()
    if not ranking:
        sys.exit(f"tune.py: all {search.ended} trials failed; {folder / 'logs'} says why")
    best = ranking[0]
    options = {**trial_options(config, best.params), "test": True, "pictures": True}
    with atomic_file(folder / "best.yaml") as file:
        file.write(yaml.safe_dump(json.loads(json.dumps(options)), sort_keys=False).encode())
    values = ", ".join(f"{name} {value:.4g}" for name, value in best.params.items())
    print(
        f"best of {len(ranking)}: trial {best.number}, {config.objective} {best.value:.5g}: {values}"
    )
    print(f"  {folder / 'report.md'}, search.png; with the test images:")
    print(f"  python scripts/supervised.py --config {folder / 'best.yaml'} --out {folder / 'best'}")


def main() -> None:
    config = parse_config(TuneConfig)
    folder = config.run_folder
    with user_errors(config.debug):
        search = Search(
            folder,
            ranges(config),
            maximise=config.objective == "val_top1",
            seed=config.seed,
            settings={**config.fixed, "decay_all": config.decay_all, "objective": config.objective},
        )
        stopped = search_on(config, search, folder)
        if stopped is not None:
            print("stopped; the same command goes on")
            sys.exit(128 + stopped)
        tell(config, search, folder)


if __name__ == "__main__":
    main()
