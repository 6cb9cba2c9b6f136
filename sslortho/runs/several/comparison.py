"""Runs that differ only in their seed, as one row of a table: mean and standard error of figures."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from sslortho.options import nearest
from sslortho.runs.several.identity import SEED, Run, canonical, identity, seeds

NO_FIGURES = frozenset({"steps", "epochs", "seconds_this_session", "peak_memory_gib"})
"""Numbers of a summary that say nothing about what was learned. Non-numeric values are never figures."""

FIRST = ("top1", "top5", "linear_top1", "linear_top5", "knn_top1", "knn_top5", "loss")
"""Order of the figures; others follow as they come, NO_RESULTS last."""

NO_RESULTS = ("untrained_", "best_")
"""Prefixes of figures of the untrained network, and of the epoch chosen on the test images."""

ACCURACY, LOSS = re.compile(r"(^|_)(top\d+|accuracy)$"), re.compile(r"(^|_)(loss|error)$")
"""Names of figures whose highest, and whose lowest, is the best."""

BY_SEED = ("subset", "validation", "train_percent")
"""Options by which the seed chooses training images."""


@dataclass(frozen=True)
class Statistic:
    """Mean of several values and its standard error."""

    mean: float
    stderr: float | None
    """s / sqrt(count), with count - 1 in s; None for one value."""
    count: int


@dataclass(frozen=True)
class Row:
    """Runs that belong together."""

    labels: Mapping[str, Any]
    """Options that tell the row from the others."""
    runs: Sequence[Run]
    figures: Mapping[str, Statistic]


@dataclass(frozen=True)
class Comparison:
    """A table of runs."""

    columns: Sequence[str]
    """Names of the label columns."""
    figures: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str]
    """Remarks on rows whose runs may not belong together."""
    equal: Mapping[str, float] = field(default_factory=dict)
    """Figures that are left out because all rows agree in them, with their value."""
    different: Set[str] = frozenset()
    """Options in which rows differ, whether they are labels or not."""


@dataclass(frozen=True)
class _Compared:
    """A run with its identity."""

    run: Run
    identity: Mapping[str, str]


def _group(runs: Sequence[_Compared], by: Sequence[str] | None) -> list[list[_Compared]]:
    groups: dict[Any, list[_Compared]] = {}
    for compared in runs:
        key = compared.identity
        if by is not None:
            config = compared.run.config
            key = {name: key.get(name, canonical(config.get(name))) for name in by}
        groups.setdefault(frozenset(key.items()), []).append(compared)
    return list(groups.values())


def _label_columns(groups: Sequence[Sequence[_Compared]]) -> list[str]:
    """Options, in their order, in which two groups that both have them differ."""
    firsts = [group[0] for group in groups]
    options = dict.fromkeys(name for first in firsts for name in first.run.config)
    values = {n: {f.identity.get(n) for f in firsts if n in f.run.config} for n in options}
    return [name for name in options if len(values[name]) > 1]


def _one_name(names: Iterable[str]) -> str:
    """One name for several runs: with a star in place of the seed if they differ in nothing else."""
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
    """Mean and standard error of one or more finite values."""
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
            hint = nearest(name, known) or f": {', '.join(known)}"
            raise ValueError(f"{kind}={name!r} is none of what these runs have{hint}")


def _notes(group: Sequence[_Compared]) -> list[str]:
    """Doubts about one row."""
    runs, options = [c.run for c in group], [c.identity for c in group]
    notes, folders = [], ", ".join(run.folder for run in runs)
    different = [n for n in dict.fromkeys(n for o in options for n in o)
                 if len({o.get(n) for o in options}) > 1]  # fmt: skip
    if different:
        notes.append(f"the runs of one row differ in {', '.join(different)}: {folders}")
    if max(Counter(map(seeds, runs)).values()) > 1:
        notes.append(f"one row has a seed more than once: {folders}")
    paths = dict.fromkeys(str(r.config.get("backbone_from")) for r in runs if r.origin is None)
    if len(paths) > 1 and "backbone_from" not in different:
        notes.append(f"the number at the end was taken for a seed, unseen: {', '.join(paths)}")
    for role in ("training", "test"):
        if role == "training" and any(r.config.get(n) is not None for r in runs for n in BY_SEED):
            continue
        inputs = [run.summary.get("inputs", {}).get(role, {}) for run in runs]
        if len({entry["digest"] for entry in inputs if "digest" in entry}) > 1:
            notes.append(f"the runs of one row have other {role} images: {folders}")
    return notes


def _sort_key(row: Row) -> list[tuple[int, float, str]]:
    values = row.labels.values()
    return [
        (1, value, "") if _number(value) else (2 - (value is None), 0, str(value))
        for value in values
    ]


def compare_runs(
    runs: Sequence[Run],
    figures: Sequence[str] | None = None,
    by: Sequence[str] | None = None,
    *,
    ignored: Set[str],
    always: Sequence[str] = (),
    brief: bool = False,
) -> Comparison:
    """A table with a row for the runs that differ only in their seed.

    Args:
        runs: 1 or more, of any commands.
        figures: names in summary.json. Default: all that any run has.
        by: options; runs that agree in these make a row, and these are the labels. Default: the
            labels are the options in which rows differ, and the folders' names if those do not tell
            the rows apart.
        ignored: options that do not affect the result.
        always: options that are labels, first and even if all rows agree in them, unless `by` is given.
        brief: name the runs of each row first, and put into `equal` the figures in which several rows agree,
            unless they are named in `figures`, or are accuracies or losses that training has reached.

    Raises:
        ValueError: there are no runs, or none has one of the figures or options.
    """
    if not runs:
        raise ValueError("no finished run to compare")
    _check_names("by", by or (), (name for run in runs for name in run.config))
    known = (name for run in runs for name, value in run.summary.items() if _number(value))
    _check_names("figures", figures or (), known)
    identities = [_Compared(run, identity(run.config, ignored, run.origin)) for run in runs]
    compared = _group(identities, by)
    groups = [[member.run for member in group] for group in compared]
    if by is None:
        found = [name for name in always if any(name in run.config for run in runs)]
        columns = list(dict.fromkeys((*found, *_label_columns(compared))))
    else:
        columns = list(by)
    labels = [_labels(group, columns) for group in groups]
    if brief or not columns or (by is None and len(set(map(str, labels))) < len(groups)):
        columns = ["run", *columns] if brief else [*columns, "run"]
        for label, name in zip(labels, _run_names(groups), strict=True):
            label["run"] = name
    names = figure_names(runs) if figures is None else list(figures)
    rows = [
        Row(label, group, _statistics(group, names))
        for label, group in zip(labels, groups, strict=True)
    ]
    notes = [note for group in compared for note in _notes(group)]
    equal = _equal_figures(rows, names) if brief and figures is None else {}
    return Comparison(
        columns,
        [name for name in names if name not in equal],
        sorted(rows, key=_sort_key),
        notes,
        equal,
        frozenset(_label_columns(compared)),
    )


def _equal_figures(rows: Sequence[Row], names: Iterable[str]) -> dict[str, float]:
    """Figures in which two or more rows agree, all of them and their seeds too, but for results."""
    if len(rows) < 2:
        return {}
    found: dict[str, float] = {}
    for name in names:
        result = ACCURACY.search(name) or LOSS.search(name)
        if result and not name.startswith(NO_RESULTS):
            continue
        values = [run.summary.get(name) for row in rows for run in row.runs]
        if isinstance(values[0], int | float) and all(value == values[0] for value in values):
            found[name] = values[0]
    return found
