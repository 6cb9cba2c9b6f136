"""A run of `tune`: check, search, and tell the best trial."""

import json
import math
import sys
from pathlib import Path

import torch
import yaml

from sslortho.atomic import atomic_file
from sslortho.optim.settings import settle_optimizer
from sslortho.recipes.supervised.options import SupervisedOptions
from sslortho.recipes.supervised.resolve import check_beginning
from sslortho.recipes.tune.options import TuneOptions
from sslortho.recipes.tune.search import Range, Search, draw_search, hold_search
from sslortho.recipes.tune.trials import (
    SearchFailedError,
    Trials,
    plan,
    trial_folder,
    trial_options,
)
from sslortho.runs.several.job_runner import JobRunner
from sslortho.runs.several.jobs import (
    TRAINING_IMAGES,
    check_data_dir,
    check_same_options,
    fit_subset,
)
from sslortho.runs.several.places import choose_places


def ranges(options: TuneOptions) -> list[Range]:
    """Range of each hyperparameter that is searched."""
    found = {name: getattr(options, f"{name}_range") for name in options.searched}
    return [Range(name, *bounds, log=name != "momentum") for name, bounds in found.items()]


def check_trials(options: TuneOptions) -> None:
    """Raise ValueError for options that would make every trial fail."""
    middle = {
        r.name: math.sqrt(r.low * r.high) if r.log else (r.low + r.high) / 2
        for r in ranges(options)
    }
    trial = SupervisedOptions(**trial_options(options, middle))
    weight = torch.zeros(1, requires_grad=True)
    settings = settle_optimizer(lr=trial.lr, **trial.optimizer_settings)
    settings.create([{"params": [weight]}])
    check_beginning(trial)
    check_data_dir(trial.data, trial.data_dir)
    if fit_subset(trial.data, trial.subset) != trial.subset:
        images = TRAINING_IMAGES[trial.data]
        raise ValueError(f"subset={trial.subset} is more than the {images} images of {trial.data}")


def check_begun(options: TuneOptions, search: Search, folder: Path) -> None:
    """Raise ValueError if a trial that was cut short could not resume with these options."""
    for trial in search.open_trials():
        job = plan(options, trial, folder)
        check_same_options(job, SupervisedOptions(**job.options))


def search_on(options: TuneOptions, search: Search, folder: Path) -> int | None:
    """Run trials until enough are complete; the number of the signal that stopped them, if one did.

    Raises SearchFailedError if too many in a row fail.
    """
    trials = Trials(options, search, folder)
    try:
        return JobRunner(choose_places(options.jobs)).run(trials, trials.end).signal
    finally:
        if search.ranking():
            draw_search(search, options.objective, folder / "search.png")


def tell(options: TuneOptions, search: Search, folder: Path, program: str) -> int:
    """Print the best trial and write it to best.yaml, for `supervised`; the exit code."""
    ranking = search.ranking()
    if not ranking:
        print(
            f"{program}: all {search.completed} trials diverged, so there is no best; give lower ranges "
            f"and another --out; {folder / 'logs'} says how they went",
            file=sys.stderr,
        )
        return 1
    best = ranking[0]
    tested = _has_test_images(trial_folder(folder, best.number))
    found = {**trial_options(options, best.params), "test": tested, "pictures": True}
    with atomic_file(folder / "best.yaml") as file:
        file.write(yaml.safe_dump(json.loads(json.dumps(found)), sort_keys=False).encode())
    values = ", ".join(f"{name} {value:.4g}" for name, value in best.params.items())
    print(
        f"best of {len(ranking)}: trial {best.number}, {options.objective} {best.value:.5g}: {values}"
    )
    then = (
        "with the test images" if tested else "the same training again (there are no test images)"
    )
    print(f"  {folder / 'report.md'}, search.png; {then}:")
    print(f"  sslortho supervised --config {folder / 'best.yaml'} --out {folder / 'best'}")
    return 0


def _has_test_images(trial: Path) -> bool:
    """Whether the data of a finished trial has images to test on, which it did not look at."""
    path = trial / "summary.json"
    inputs = json.loads(path.read_text()).get("inputs") if path.exists() else None
    return inputs is None or "test" in inputs


def search_in(folder: Path, options: TuneOptions, program: str) -> int:
    """Search in a folder that this process holds; the exit code."""
    search = Search(
        folder,
        ranges(options),
        maximise=options.objective == "val_top1",
        seed=options.seed,
        settings=options.settings,
    )
    check_begun(options, search, folder)
    try:
        stopped = search_on(options, search, folder)
    except SearchFailedError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    if stopped is not None:
        print("stopped; the same command goes on")
        return 128 + stopped
    return tell(options, search, folder, program)


def run(options: TuneOptions, program: str) -> int:
    """Search in `options.run_folder`; the exit code.

    Args:
        options: of `tune`.
        program: name for messages.

    Raises ValueError for a user's mistake, and if another process searches there.
    """
    folder = options.run_folder
    check_trials(options)
    with hold_search(folder):
        return search_in(folder, options, program)
