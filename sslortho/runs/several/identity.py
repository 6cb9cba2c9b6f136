"""Runs and their identity: which of them differ only in their seed.

Two runs belong to one row if their options agree, except for `seed` and those that do not affect the
result. `data_dir` counts where it says what the data are (folder, beton). A missing option counts as
null, so a run of a version that did not have an option yet goes with those that leave it at null.

`backbone_from` counts by what it names. If the options of that run are known (`Run.origin`), two
backbones are the same if their own runs differ only in the seed, whatever they are called. If not,
they are the same if their paths differ only in a number after a dash at the end of a component, such
as `runs/orth_lars-s0` and `-s1`, or `runs/a-0/backbone.safetensors` and `runs/a-1/...`. A name does
not say whether such a number is a seed, hence a note.
"""

import json
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

SELF_CONTAINED = frozenset({"digits", "cifar10", "cifar100"})
"""Data sets that are the same in whatever folder they lie."""

SEED = re.compile(r"(?<=-)(s?)(\d+)(?=/|$)")
"""A seed at the end of a component of a path."""


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: str
    """As it is to be called."""
    summary: Mapping[str, Any]
    """Content of summary.json: figures, and options under "config"."""
    origin: Mapping[str, Any] | None = None
    """Options of the run that its backbone comes from, if they are known."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Its options."""
        return self.summary["config"]


def canonical(value: Any) -> str:
    """Text of an option, the same for 1 and 1.0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return json.dumps(float(value) if number else value, sort_keys=True)


def identity(
    config: Mapping[str, Any], ignored: Set[str], origin: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Options that count, whatever the seed, as text: equal for runs of one row.

    Args:
        config: options of a run.
        ignored: options that do not affect the result.
        origin: options of the run that its backbone comes from, if they are known.
    """
    skipped = {*ignored, "seed"}
    if config.get("data") in SELF_CONTAINED:
        skipped.add("data_dir")
    kept = {n: canonical(v) for n, v in config.items() if v is not None and n not in skipped}
    if "backbone_from" in kept:
        if origin is None:
            kept["backbone_from"] = SEED.sub("", str(PurePath(config["backbone_from"])))
        else:
            kept["backbone_from"] = json.dumps(identity(origin, ignored), sort_keys=True)
    return kept


def seeds(run: Run) -> tuple[Any, Any]:
    """Its own seed, and that of the run that its backbone comes from (its path if unknown)."""
    if run.origin is not None:
        return run.config.get("seed"), run.origin.get("seed")
    return run.config.get("seed"), run.config.get("backbone_from")
