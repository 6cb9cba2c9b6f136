"""Bayesian search by Optuna, kept on disk so that it survives its process."""

import contextlib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslortho.atomic import atomic_file
from sslortho.evaluate.figures import new_figure, save_figure
from sslortho.runs.lock import lock_file
from sslortho.runs.markdown import code_lines, escape, table_lines

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

STARTUP_TRIALS = 10
"""Random trials before the model of the objective counts; Optuna's default."""


@dataclass(frozen=True)
class Range:
    """Values in which a hyperparameter is searched."""

    name: str
    low: float
    high: float
    log: bool


@dataclass(frozen=True)
class Trial:
    """A trial to run, or to continue."""

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
    """Lock the search of a folder, made if need be, while the block runs.

    Raises ValueError if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "study.lock").open("ab") as lock:
        if lock_file(lock) is False:  # None: the file system has no locks
            raise ValueError(
                f"out={str(folder)!r}: another search is at work there; wait for it, stop it, or give "
                "another --out"
            )
        yield


class Search:
    """A search kept in `folder/study.log`, so that a killed process loses no trial.

    Only one process at a time may use it: see `hold_search`. The sampler is multivariate TPE (Bergstra
    et al., NeurIPS 2011; arXiv 2304.11127).

    Args:
        folder: made if need be.
        ranges: of each hyperparameter that is searched.
        maximise: whether a larger objective is better.
        seed: of the sampler.
        settings: plain values that all trials share and that affect the objective.

    Raises ValueError if the folder holds a search of other ranges or settings. A setting that only one
    of the two knows is not compared.
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
            # not the numbers that an earlier session has drawn
            seed=seed + len(self.study.trials),
            n_startup_trials=STARTUP_TRIALS,
            multivariate=True,
            constant_liar=True,  # trials that run at the same time keep apart
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
        """Give up trials whose process was killed before all their values were drawn."""
        from optuna.trial import TrialState

        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            if set(trial.params) != {r.name for r in self.ranges}:
                self.study.tell(trial.number, state=TrialState.FAIL)

    def check_images(self, images: Mapping[str, Any], *, accepted: bool) -> None:
        """Raise ValueError if a trial had other images than those before it, unless that is accepted.

        Args:
            images: identity of a trial's images, from its summary.json.
            accepted: whether the next trials may be compared with those of other images.
        """
        if not self._stored("images") or accepted:
            self.study.set_user_attr("images", dict(images))
        elif images != self._stored("images"):
            raise ValueError(
                "the images have changed since the first trial of this search, so that its trials cannot "
                "be compared; restore them, or give another --out (or --accept_changed_data true, to "
                "compare them nevertheless)"
            )

    def open_trials(self) -> list[Trial]:
        """Trials begun and not ended, by this process or an earlier one."""
        from optuna.trial import TrialState

        begun = self.study.get_trials(states=(TrialState.RUNNING,))
        return [Trial(trial.number, trial.params) for trial in begun]

    def draw(self) -> Trial:
        """Draw the values of a new trial."""
        trial, values = self.study.ask(), {}
        for r in self.ranges:
            values[r.name] = trial.suggest_float(r.name, r.low, r.high, log=r.log)
        return Trial(trial.number, values)

    def tell(self, trial: Trial, value: float | None) -> None:
        """Record the objective of a trial: `worst` if it diverged, None if it failed."""
        from optuna.trial import TrialState

        if value is None:
            self.study.tell(trial.number, state=TrialState.FAIL)
        else:
            self.study.tell(trial.number, value)

    @property
    def worst(self) -> float:
        """Objective of a trial that diverged."""
        return 0.0 if self.maximise else math.inf

    @property
    def completed(self) -> int:
        """Number of trials that have an objective: they may have diverged, but did not fail."""
        return len(self._completed())

    @property
    def failed(self) -> int:
        """Number of trials that failed."""
        from optuna.trial import TrialState

        return len(self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,)))

    def _completed(self) -> list["FrozenTrial"]:
        from optuna.trial import TrialState

        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    def ranking(self) -> list["FrozenTrial"]:
        """Trials that have an objective and did not diverge, the best first."""
        good = [t for t in self._completed() if t.value is not None and t.value != self.worst]
        sign = -1 if self.maximise else 1
        return sorted(good, key=lambda trial: (sign * (trial.value or 0.0), trial.number))


def draw_search(search: Search, objective: str, path: Path) -> None:
    """Draw the objective of every ranked trial against each hyperparameter; later trials are darker."""
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
            axis.xaxis.set_minor_formatter(NullFormatter())  # minor labels would overlap
        axis.set_xlabel(searched.name)
        axis.grid(alpha=0.3)
    panels[0].set_ylabel(f"{objective} (%)" if objective.endswith("top1") else objective)
    save_figure(figure, path)


def write_search(search: Search, objective: str, folder: Path, command: str) -> Path:
    """Write report.md, which shows a search.png; returns its path.

    Args:
        search: with its trials.
        objective: its name.
        folder: of the search.
        command: command line that continues it.
    """
    ranking = search.ranking()
    names = [r.name for r in search.ranges]
    columns = [["trial", *(str(trial.number) for trial in ranking)]]
    columns += [[escape(n), *(f"{trial.params[n]:.4g}" for trial in ranking)] for n in names]
    columns += [[escape(objective), *(f"{trial.value:.5g}" for trial in ranking)]]
    lines = [
        "# Search for hyperparameters",
        "",
        f"{search.completed} trials are complete, {search.completed - len(ranking)} of them diverged; "
        f"{search.failed} failed. The objective is {objective}, of training images that were held out; "
        "test images were not looked at.",
        "",
        *table_lines(columns, right=[True] * len(columns)),
    ]
    if ranking:
        lines += ["", "![objective of every trial, later ones darker](search.png)"]
    lines += ["", "## Command", "", *code_lines(command, "bash"), ""]
    path = folder / "report.md"
    with atomic_file(path) as file:
        file.write("\n".join(lines).encode())
    return path
