"""Bayesian search for hyperparameters: trials that outlive the process, by Optuna."""

import contextlib
import fcntl
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslortho.atomic import atomic_file
from sslortho.evaluate.figures import new_figure, save_figure

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

STARTUP_TRIALS = 10
"""Random trials before the model of the objective counts; Optuna's default."""


@dataclass(frozen=True)
class Range:
    """What a hyperparameter is searched in."""

    name: str
    low: float
    high: float
    log: bool


@dataclass(frozen=True)
class Trial:
    """A trial that is to be run, or to be gone on with."""

    number: int
    values: Mapping[str, float]


def _require_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ValueError("the search needs Optuna; pip install 'sslortho[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@contextlib.contextmanager
def hold_search(folder: Path) -> Iterator[None]:
    """Have the search of this folder, made if need be, to ourselves.

    Raises ValueError if another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "study.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"out={str(folder)!r}: another tune.py is searching there; wait for it, stop it, or give "
                "another --out"
            ) from None
        yield


class Search:
    """A search that is kept in `folder/study.log`, so a process that is killed loses no trial. One
    process at a time: `hold_search`.

    Sampler: multivariate TPE (Bergstra et al., NeurIPS 2011; arXiv 2304.11127).

    Args:
        folder: made if need be.
        ranges: what is searched.
        maximise: whether more of the objective is better.
        seed: of the sampler.
        settings: plain values that all trials share and that bear on the objective.

    Raises ValueError if the folder holds a search of other ranges or settings. A setting that one of
    the two does not know is not compared.
    """

    def __init__(
        self,
        folder: Path,
        ranges: Sequence[Range],
        *,
        maximise: bool,
        seed: int,
        settings: Mapping[str, Any],
    ) -> None:
        optuna = _require_optuna()
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        folder.mkdir(parents=True, exist_ok=True)
        self.ranges = tuple(ranges)
        self.maximise = maximise
        self.study: Study = optuna.create_study(
            study_name="sslortho",
            storage=JournalStorage(JournalFileBackend(str(folder / "study.log"))),
            load_if_exists=True,
            direction="maximize" if maximise else "minimize",
        )
        found = {r.name: [r.low, r.high, r.log] for r in self.ranges}
        self._check_same(folder, "ranges", found, found.keys() | self._stored("ranges").keys())
        ours = json.loads(json.dumps(dict(settings)))
        self._check_same(folder, "settings", ours, ours.keys() & self._stored("settings").keys())
        self._fail_undrawn()
        self.study.sampler = optuna.samplers.TPESampler(
            # not the numbers that a session before this one has drawn
            seed=seed + len(self.study.trials),
            n_startup_trials=STARTUP_TRIALS,
            multivariate=True,
            constant_liar=True,  # trials at work at the same time keep apart
        )

    def _stored(self, kind: str) -> dict[str, Any]:
        return self.study.user_attrs.get(kind, {})

    def _check_same(
        self, folder: Path, kind: str, ours: dict[str, Any], compared: Collection[str]
    ) -> None:
        stored = self._stored(kind)
        if not stored:
            self.study.set_user_attr(kind, ours)
            return
        names = [n for n in {**stored, **ours} if n in compared and stored.get(n) != ours.get(n)]
        if names:
            told = ", ".join(f"{n} ({stored.get(n)!r} there, {ours.get(n)!r} here)" for n in names)
            raise ValueError(
                f"{folder} holds a search with other {kind}: {told}; give another --out, or the same"
            )

    def _fail_undrawn(self) -> None:
        """Give up trials whose process was killed before it had drawn all their values."""
        from optuna.trial import TrialState

        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            if set(trial.params) != {r.name for r in self.ranges}:
                self.study.tell(trial.number, state=TrialState.FAIL)

    def open_trials(self) -> list[Trial]:
        """Those that were begun and not ended, by this process or one before it."""
        from optuna.trial import TrialState

        begun = self.study.get_trials(states=(TrialState.RUNNING,))
        return [Trial(trial.number, trial.params) for trial in begun]

    def draw(self) -> Trial:
        """A new one."""
        trial, values = self.study.ask(), {}
        for r in self.ranges:
            values[r.name] = trial.suggest_float(r.name, r.low, r.high, log=r.log)
        return Trial(trial.number, values)

    def tell(self, trial: Trial, value: float | None) -> None:
        """How a trial ended: its objective, `worst` if it diverged, None if it failed."""
        from optuna.trial import TrialState

        if value is None:
            self.study.tell(trial.number, state=TrialState.FAIL)
        else:
            self.study.tell(trial.number, value)

    @property
    def worst(self) -> float:
        """The objective of a trial that diverged."""
        return 0.0 if self.maximise else math.inf

    @property
    def completed(self) -> int:
        """How many have an objective; so have those that diverged, and not those that failed."""
        return len(self._completed())

    @property
    def failed(self) -> int:
        """How many have none."""
        from optuna.trial import TrialState

        return len(self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,)))

    def _completed(self) -> list["FrozenTrial"]:
        from optuna.trial import TrialState

        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    def ranking(self) -> list["FrozenTrial"]:
        """Those that have an objective and did not diverge, the best first."""
        good = [t for t in self._completed() if t.value is not None and t.value != self.worst]
        sign = -1 if self.maximise else 1
        return sorted(good, key=lambda trial: (sign * (trial.value or 0.0), trial.number))


def draw_search(search: Search, objective: str, path: Path) -> None:
    """A panel for each hyperparameter: the objective of every trial that is ranked, later ones darker."""
    from matplotlib.ticker import NullFormatter

    done = sorted(search.ranking(), key=lambda trial: trial.number)
    figure = new_figure(4 * len(search.ranges), 3.6)
    panels = figure.subplots(1, len(search.ranges), sharey=True, squeeze=False)[0]
    for axis, searched in zip(panels, search.ranges, strict=True):
        axis.scatter(
            [t.params[searched.name] for t in done],
            [t.value for t in done],
            c=[t.number for t in done],
            cmap="viridis_r",
        )
        axis.set_xscale("log" if searched.log else "linear")
        if searched.log:
            axis.xaxis.set_minor_formatter(NullFormatter())  # they would lie on each other
        axis.set_xlabel(searched.name)
        axis.grid(alpha=0.3)
    panels[0].set_ylabel(f"{objective} (%)" if objective.endswith("top1") else objective)
    save_figure(figure, path)


def write_search(search: Search, objective: str, folder: Path, command: str) -> Path:
    """report.md, which shows a search.png; returns its path."""
    ranking = search.ranking()
    names = [r.name for r in search.ranges]
    lines = [
        "# Search for hyperparameters",
        "",
        f"{search.completed} trials are complete, {search.completed - len(ranking)} of them diverged; "
        f"{search.failed} failed. The objective is {objective}, of training images that were held out; "
        "test images were not looked at.",
        "",
        f"| trial | {' | '.join(names)} | {objective} |",
        f"|------:|{'|'.join('---:' for _ in names)}|---:|",
    ]
    for trial in ranking:
        values = " | ".join(f"{trial.params[name]:.4g}" for name in names)
        lines.append(f"| {trial.number} | {values} | {trial.value:.5g} |")
    if ranking:
        lines += ["", "![objective of every trial, later ones darker](search.png)"]
    lines += ["", "## Command", "", "```bash", command, "```", ""]
    path = folder / "report.md"
    with atomic_file(path) as file:
        file.write("\n".join(lines).encode())
    return path
