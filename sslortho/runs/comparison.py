"""Runs that differ in their seed alone, as one row of a table: mean and standard error of figures.

Runs are of one row where their options agree but for `seed` and NOT_COMPARED. `data_dir` counts
where it says what the data are (folder, beton). An option that a run lacks counts as null, so a run
from before an option was there goes with those that leave it at null.

`backbone_from` counts by what it names. If that run's folder was there to read (Run.origin), two
backbones are the same where their own runs differ in the seed alone, whatever they are called. If
not, where their paths differ only in a number after a dash at the end of a component, such as
`runs/orth_lars-s0` and `-s1`, or `runs/a-0/backbone.safetensors` and `runs/a-1/...`. Whether such a
number is a seed a name does not say, hence a note.
"""

import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

NOT_COMPARED = frozenset({"out", "workers", "threads", "trackers", "log_every", "log_gradients", "log_layers",
                          "evaluate_every", "checkpoint_every", "keep_last", "max_bad_steps",
                          "pictures", "debug"})  # fmt: skip
"""Options that say where and how a run ran, not what it was. Those that change rounding or speed
(compile, share, ...) are not among them: too few here split a row, which is seen, too many merge two
in silence."""

SELF_CONTAINED = frozenset({"digits", "cifar10", "cifar100"})
"""Data that are the same wherever they lie."""

NO_FIGURES = frozenset({"steps", "epochs", "seconds_this_session"})
"""Numbers of a summary that say nothing about what was learned. What is no number is no figure."""

FIRST = ("top1", "top5", "linear_top1", "linear_top5", "knn_top1", "knn_top5", "loss")
"""Order of the figures; others follow as they come, and those that are no results last."""

NO_RESULTS = ("untrained_", "best_")
"""How figures begin of the untrained network, and of the epoch chosen on the test images."""

SEED = re.compile(r"(?<=-)(s?)(\d+)(?=/|$)")


@dataclass(frozen=True)
class Run:
    """A finished run: `folder` as it is to be called, `summary` its summary.json (figures, and options
    under "config"), `origin` the options of the run that gave its backbone, where they are known."""

    folder: str
    summary: Mapping[str, Any]
    origin: Mapping[str, Any] | None = None

    @property
    def config(self) -> Mapping[str, Any]:
        """Its options."""
        return self.summary["config"]


@dataclass(frozen=True)
class Statistic:
    """Of `count` values: mean, and standard error s / sqrt(count), with count - 1 in s; None for one."""

    mean: float
    stderr: float | None
    count: int


@dataclass(frozen=True)
class Row:
    """Runs that belong together: what tells them from the other rows, and their figures."""

    labels: Mapping[str, Any]
    runs: Sequence[Run]
    figures: Mapping[str, Statistic]


@dataclass(frozen=True)
class Comparison:
    """A table: the names of its label columns and figures, its rows, and what to know about it."""

    columns: Sequence[str]
    figures: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str]


def _canonical(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return json.dumps(float(value) if number else value, sort_keys=True)


def identity(config: Mapping[str, Any], origin: Mapping[str, Any] | None = None) -> dict[str, str]:
    """What a run is, whatever its seed: its options that count, as text."""
    skipped = NOT_COMPARED | {"seed"}
    if config.get("data") in SELF_CONTAINED:
        skipped |= {"data_dir"}
    kept = {n: _canonical(v) for n, v in config.items() if v is not None and n not in skipped}
    if "backbone_from" in kept:
        if origin is None:
            kept["backbone_from"] = SEED.sub("", str(PurePath(config["backbone_from"])))
        else:
            kept["backbone_from"] = json.dumps(identity(origin), sort_keys=True)
    return kept


def _identity(run: Run) -> dict[str, str]:
    return identity(run.config, run.origin)


def _seeds(run: Run) -> tuple[Any, Any]:
    """Its own seed, and that of its backbone's run, as far as it is known."""
    if run.origin is not None:
        return run.config.get("seed"), run.origin.get("seed")
    return run.config.get("seed"), run.config.get("backbone_from")


def _group(runs: Sequence[Run], by: Sequence[str] | None) -> list[list[Run]]:
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        compared = _identity(run)
        if by is not None:
            compared = {n: compared.get(n, _canonical(run.config.get(n))) for n in by}
        groups.setdefault(frozenset(compared.items()), []).append(run)
    return list(groups.values())


def _label_columns(groups: Sequence[Sequence[Run]]) -> list[str]:
    """Options, in their order, in which two groups that both have them differ."""
    firsts = [group[0] for group in groups]
    options = dict.fromkeys(name for run in firsts for name in run.config)
    values = {n: {_identity(run).get(n) for run in firsts if n in run.config} for n in options}
    return [name for name in options if len(values[name]) > 1]


def _one_name(names: Iterable[str]) -> str:
    """One name for those of several runs: with a star in place of the seed if they differ in no more."""
    distinct = list(dict.fromkeys(names))
    starred = {SEED.sub(r"\1*", name) for name in distinct}
    if len(distinct) == 1:
        return distinct[0]
    return starred.pop() if len(starred) == 1 else f"{distinct[0]} and {len(distinct) - 1} more"


def _run_names(groups: Sequence[Sequence[Run]]) -> list[str]:
    paths = [_one_name(run.folder for run in group) for group in groups]
    names = [_one_name(PurePath(run.folder).name for run in group) for group in groups]
    return names if len(set(names)) == len(names) else paths


def _labels(group: Sequence[Run], columns: Iterable[str]) -> dict[str, Any]:
    labels = {name: group[0].config.get(name) for name in columns}
    if labels.get("backbone_from") is not None:
        labels["backbone_from"] = _one_name(str(run.config.get("backbone_from")) for run in group)
    return labels


def statistic(values: Sequence[float]) -> Statistic:
    """Of one value or more, all finite."""
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Statistic(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Statistic(mean, math.sqrt(variance / count), count)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _statistics(group: Sequence[Run], names: Iterable[str]) -> dict[str, Statistic]:
    values = {n: [run.summary[n] for run in group if _number(run.summary.get(n))] for n in names}
    return {name: statistic(found) for name, found in values.items() if found}


def figure_names(runs: Sequence[Run]) -> list[str]:
    """Names of the figures that any of the runs has, the most telling first."""
    found = dict.fromkeys(
        n for run in runs for n, v in run.summary.items() if _number(v) and n not in NO_FIGURES
    )
    place = {name: i for i, name in enumerate(FIRST)}
    return sorted(found, key=lambda n: (n.startswith(NO_RESULTS), place.get(n, len(FIRST))))


def _check_names(kind: str, wanted: Iterable[str], known: Iterable[str]) -> None:
    known = list(dict.fromkeys(known))
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else f": {', '.join(known)}"
            raise ValueError(f"{kind}={name!r} is none of what these runs have{hint}")


def _notes(group: Sequence[Run]) -> list[str]:
    """What may be wrong with one row."""
    notes, folders = [], ", ".join(run.folder for run in group)
    options = [_identity(run) for run in group]
    different = [n for n in dict.fromkeys(n for o in options for n in o)
                 if len({o.get(n) for o in options}) > 1]  # fmt: skip
    if different:
        notes.append(f"the runs of one row differ in {', '.join(different)}: {folders}")
    if max(Counter(map(_seeds, group)).values()) > 1:
        notes.append(f"one row has a seed more than once: {folders}")
    paths = dict.fromkeys(str(r.config.get("backbone_from")) for r in group if r.origin is None)
    if len(paths) > 1 and "backbone_from" not in different:
        notes.append(f"the number at the end was taken for a seed, unseen: {', '.join(paths)}")
    return notes


def _sort_key(row: Row) -> list[tuple[int, float, str]]:
    values = row.labels.values()
    return [
        (1, value, "") if _number(value) else (2 - (value is None), 0, str(value))
        for value in values
    ]


def compare_runs(
    runs: Sequence[Run], figures: Sequence[str] | None = None, by: Sequence[str] | None = None
) -> Comparison:
    """A row for the runs that differ in their seed alone.

    Args:
        runs: 1 or more, of any kinds.
        figures: names of summary.json; default all that any run has.
        by: options; then runs are of one row where they agree in these, and these are the labels.
            By default the labels are the options in which rows differ, and the folders' names if
            those do not tell the rows apart.

    Raises:
        ValueError: for no runs, or a figure or option that none of them has.
    """
    if not runs:
        raise ValueError("no finished run to compare")
    _check_names("by", by or (), (name for run in runs for name in run.config))
    known = (name for run in runs for name, value in run.summary.items() if _number(value))
    _check_names("figures", figures or (), known)
    groups = _group(runs, by)
    columns = _label_columns(groups) if by is None else list(by)
    labels = [_labels(group, columns) for group in groups]
    if not columns or (by is None and len(set(map(str, labels))) < len(groups)):
        columns.append("run")
        for label, name in zip(labels, _run_names(groups), strict=True):
            label["run"] = name
    names = figure_names(runs) if figures is None else list(figures)
    rows = [
        Row(label, group, _statistics(group, names))
        for label, group in zip(labels, groups, strict=True)
    ]
    notes = [note for group in groups for note in _notes(group)]
    return Comparison(columns, names, sorted(rows, key=_sort_key), notes)
