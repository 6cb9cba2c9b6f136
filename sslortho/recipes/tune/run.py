"""Bayesian search for hyperparameters of supervised training:
`python scripts/tune.py --data cifar10 --data_dir D --backbone resnet20 --optim orth_sgd --epochs 20`.

Each trial is a run of supervised.py in its own folder. Starting the same command again goes on with
the search, trials that were cut short included.
"""

import json
import math
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from sslortho.atomic import atomic_file
from sslortho.recipes.optimizer import check_optimizer, optimizer_over
from sslortho.runs.config_file import MAY_CHANGE
from sslortho.recipes.supervised.options import SupervisedOptions
from sslortho.recipes.tune.options import TuneOptions
from sslortho.recipes.command_line import parse_config, user_errors
from sslortho.paper.adaptation import TRAINING_IMAGES, fit_subset
from sslortho.paper.found_runs import is_held, last_lines
from sslortho.runs.jobs import (
    NO_RESULT,
    Job,
    check_data_dir,
    check_same_options,
    plain_options,
)
from sslortho.runs.runner import Ending, Runner, choose_places
from sslortho.recipes.tune.search import (
    Range,
    Search,
    Trial,
    draw_search,
    hold_search,
    write_search,
)
from sslortho.optim.registry import accepted_options

BETA2 = 0.999
"""Of adam, where betas are searched and none are given; torch's default."""


FIRST_FAILURES, FAILURES = 3, 5
"""Failures in a row that end a search: where no trial is complete yet, and later."""


class SearchFailedError(Exception):
    """Trials fail one after the other: something is wrong that the next would not mend."""


def ranges(config: TuneOptions) -> list[Range]:
    """What is searched."""
    found = {name: getattr(config, f"{name}_range") for name in config.searched}
    return [Range(name, *bounds, log=name != "momentum") for name, bounds in found.items()]


def trial_options(config: TuneOptions, values: dict[str, float]) -> dict[str, Any]:
    """Options of supervised.py for a trial of these values."""
    options = {**config.fixed, **values}
    if "momentum" in values and "momentum" not in accepted_options(config.optim):
        beta1 = options.pop("momentum")
        options["betas"] = [beta1, config.betas[1] if config.betas else BETA2]
    if config.decay_all:
        options["weight_decay_biases"] = options["weight_decay"]
    return options


def plan(config: TuneOptions, trial: Trial, folder: Path) -> Job:
    """The run of a trial."""
    name = f"trial-{trial.number:04}"
    return Job(
        name=name,
        script=Path(__file__).parent / "supervised.py",
        options=trial_options(config, dict(trial.values)),
        folder=folder / "trials" / name,
        log=folder / "logs" / f"{name}.log",
    )


def check_trials(config: TuneOptions) -> None:
    """Raise ValueError for options that would make every trial fail."""
    middle = {
        r.name: math.sqrt(r.low * r.high) if r.log else (r.low + r.high) / 2 for r in ranges(config)
    }
    trial = SupervisedOptions(**trial_options(config, middle))
    check_optimizer(trial)
    optimizer_over(trial, [{"params": [torch.zeros(1, requires_grad=True)]}], trial.lr)
    check_data_dir(trial.data, trial.data_dir)
    if fit_subset(trial.data, trial.subset) != trial.subset:
        images = TRAINING_IMAGES[trial.data]
        raise ValueError(f"subset={trial.subset} is more than the {images} images of {trial.data}")


def check_begun(config: TuneOptions, search: Search, folder: Path) -> None:
    """Raise ValueError if a trial that was cut short could not go on with these options."""
    for trial in search.open_trials():
        job = plan(config, trial, folder)
        options = plain_options(SupervisedOptions(**job.options))
        check_same_options(job, options, MAY_CHANGE)


class Trials:
    """The jobs of a search, one whenever it is asked for, and what becomes of them.

    Trials that were begun before come first. One that another process has in hand (a run outlives a
    tune.py that is killed) is waited for, while others go on.
    """

    def __init__(self, config: TuneOptions, search: Search, folder: Path) -> None:
        self.config, self.search, self.folder = config, search, folder
        self.at_work: dict[str, Trial] = {}
        self.busy: set[str] = set()
        self.failures = 0

    def __iter__(self) -> Iterator[Job | None]:
        while self.search.completed < self.config.trials:
            yield self._next()

    def _next(self) -> Job | None:
        """The next; None while all that are wanted are being run."""
        begun = self.search.open_trials()
        for trial in begun:
            job = plan(self.config, trial, self.folder)
            if job.name not in self.at_work and not self._is_busy(job):
                return self._give(trial, job)
        if self.search.completed + len(begun) >= self.config.trials:
            return None
        trial = self.search.draw()
        return self._give(trial, plan(self.config, trial, self.folder))

    def _is_busy(self, job: Job) -> bool:
        if job.name in self.busy and (job.finished or not is_held(job.log)):
            self.busy.remove(job.name)
        return job.name in self.busy

    def _give(self, trial: Trial, job: Job) -> Job:
        self.at_work[job.name] = trial
        return job

    def end(self, job: Job, ending: Ending) -> None:
        """Put down how a job ended. Raises SearchFailedError if too many in a row have failed."""
        trial = self.at_work.pop(job.name)
        if ending == "busy":
            self.busy.add(job.name)
        if ending not in ("finished", "failed"):
            return
        failed = ending == "failed"
        self.search.tell(trial, None if failed else self._objective(job))
        write_search(
            self.search, self.config.objective, self.folder, shlex.join(["python", *sys.argv])
        )
        self.failures = self.failures + 1 if failed else 0
        if self.failures >= (FAILURES if self.search.completed else FIRST_FAILURES):
            end = "\n".join(f"  | {line}" for line in last_lines(job.log))
            raise SearchFailedError(
                f"{self.failures} trials in a row have failed; the end of {job.log}:\n{end}"
            )

    def _objective(self, job: Job) -> float:
        summary = json.loads((job.folder / "summary.json").read_text())
        value = summary[self.config.objective]
        return self.search.worst if summary["diverged"] or value is None else value


def search_on(config: TuneOptions, search: Search, folder: Path) -> int | None:
    """Trials until enough are complete; the number of the signal that stopped them, if one did.

    Raises SearchFailedError if too many in a row fail.
    """
    trials = Trials(config, search, folder)
    try:
        return Runner(choose_places(config.jobs)).run(trials, trials.end).signal
    finally:
        if search.ranking():
            draw_search(search, config.objective, folder / "search.png")


def tell(config: TuneOptions, search: Search, folder: Path) -> int:
    """The best trial, on the terminal and as best.yaml for supervised.py; the exit code."""
    ranking = search.ranking()
    if not ranking:
        print(
            f"tune.py: all {search.completed} trials diverged, so there is no best; give lower ranges and "
            f"another --out; {folder / 'logs'} says how they went",
            file=sys.stderr,
        )
        return 1
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
    return 0


def search_in(folder: Path, config: TuneOptions) -> int:
    """All that was asked for; the exit code."""
    settings = {n: v for n, v in config.settings.items() if n not in NO_RESULT}
    maximise = config.objective == "val_top1"
    search = Search(folder, ranges(config), maximise=maximise, seed=config.seed, settings=settings)
    check_begun(config, search, folder)
    try:
        stopped = search_on(config, search, folder)
    except SearchFailedError as error:
        print(f"tune.py: {error}", file=sys.stderr)
        return 1
    if stopped is not None:
        print("stopped; the same command goes on")
        return 128 + stopped
    return tell(config, search, folder)


def main() -> None:
    config = parse_config(TuneOptions)
    folder = config.run_folder
    with user_errors(config.debug):
        check_trials(config)
        with hold_search(folder):
            code = search_in(folder, config)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
