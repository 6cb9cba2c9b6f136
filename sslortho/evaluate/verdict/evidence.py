"""Evidence of a run: its records and summary, in the order of steps, with what is missing told apart."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]
"""Record of a metrics.jsonl; None where a figure was not finite."""

PREFIX = "probe/"

FIGURES = (
    "images", "distinct_images", "contrast", "view_difference", "rankme", "feature_std", "ranking",
    "projection_std", "weight_change",
)  # fmt: skip
"""Figures of `recipes.pretrain.probe` that are read."""

NAMES_IN_RECORDS = frozenset(
    ("loss", "redundancy", "teacher_entropy", "teacher_mean_entropy", "knn_top1", "val_knn_top1",
     *(PREFIX + name for name in FIGURES))
)  # fmt: skip
"""Names of all that is read in records."""


UNTRAINED, GIVEN_WEIGHTS = "untrained", "initial weights"
"""Beginnings of a training: weights drawn by seed, or those of another training."""


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of kNN in percent, before the training and now."""

    name: str
    before: float
    now: float
    images: int | None
    """Number of images that were judged, if it is known."""

    @property
    def gain(self) -> float:
        """Percentage points."""
        return self.now - self.before

    @property
    def noise(self) -> float:
        """Standard error of the gain in points, as if the two were of different images (so too large
        rather than too small); inf where the number of images is not known."""
        if not self.images:
            return math.inf
        parts = (p / 100 * (1 - p / 100) for p in (self.before, self.now))
        return 100 * math.sqrt(sum(parts) / self.images)


@dataclass(frozen=True)
class Evidence:
    """Figures of a run that verdicts are made from."""

    method: str
    config: Mapping[str, Any]
    steps: int
    """Optimizer steps so far."""
    losses: tuple[float, ...]
    """Losses of all records, first to last; nan where it was not finite."""
    training: tuple[Mapping[str, float], ...]
    """Records of the training, first to last."""
    probes: tuple[Mapping[str, float], ...]
    """Figures of `recipes.pretrain.probe` without their prefix, first to last, each with its "step"."""
    accuracy: Accuracy | None
    failure: str | None = None
    """Message of the error that ended the run."""

    @property
    def begun(self) -> str:
        """Beginning of the training: UNTRAINED or GIVEN_WEIGHTS."""
        return GIVEN_WEIGHTS if self.config.get("initial_weights") else UNTRAINED

    @property
    def before(self) -> Mapping[str, float]:
        """Figures of the network before the first step; empty if they were not taken."""
        return self.probes[0] if self.probes and self.probes[0]["step"] == 0 else {}

    @property
    def now(self) -> Mapping[str, float]:
        """Newest figures; empty if there are none, or none since the start."""
        return self.probes[-1] if self.probes and self.probes[-1]["step"] > 0 else {}

    @property
    def images(self) -> Mapping[str, float]:
        """Figures of images and views, which do not change; empty if they were not taken."""
        return self.probes[-1] if self.probes else {}

    def median_loss(self, first: float, last: float) -> float:
        """Median of the losses between two shares of the records; nan if one is not finite or none is there."""
        count = len(self.losses)
        part = sorted(
            self.losses[int(first * count) : max(int(last * count), int(first * count) + 1)]
        )
        if not part or any(map(math.isnan, part)):
            return math.nan
        middle = len(part) // 2
        return part[middle] if len(part) % 2 else (part[middle - 1] + part[middle]) / 2


def collect(
    records: Sequence[Record], summary: Mapping[str, Any], failure: str | None = None
) -> Evidence:
    """Evidence from the records of a metrics.jsonl, in any order, and a summary, whole or in part."""
    ordered = sorted(records, key=lambda record: record["step"])
    config = summary.get("config") or {}
    training = [r for r in ordered if "loss" in r]
    probes = [r for r in ordered if any(name.startswith(PREFIX) for name in r)]
    return Evidence(
        method=str(config.get("method", "")),
        config=config,
        steps=int(max((r["step"] for r in ordered), default=0)),
        losses=tuple(_finite(r["loss"]) for r in training),
        training=tuple(training),
        probes=tuple(_read_probe(r) for r in probes),
        accuracy=_read_accuracy(ordered, summary),
        failure=failure,
    )


def _finite(value: Any) -> float:
    return math.nan if value is None or not math.isfinite(value) else float(value)


def _read_probe(record: Record) -> dict[str, float]:
    figures = {
        name.removeprefix(PREFIX): _finite(value)
        for name, value in record.items()
        if name.startswith(PREFIX)
    }
    return {**figures, "step": float(record["step"])}


def _read_accuracy(records: Sequence[Record], summary: Mapping[str, Any]) -> Accuracy | None:
    """kNN of held-out images if there is one, else of test images; None without two figures.

    A run that began with given weights is compared with those.
    """
    inputs = summary.get("inputs") or {}
    given = (summary.get("config") or {}).get("initial_weights")
    prefix = "initial" if given else "untrained"
    for name, role in (("val_knn_top1", "held-out"), ("knn_top1", "test")):
        taken = [(r["step"], r[name]) for r in records if r.get(name) is not None]
        before = summary.get(f"{prefix}_{name}")
        if before is None and taken and taken[0][0] == 0:
            before = taken[0][1]
        now = summary.get(name)
        if now is None and taken and taken[-1][0] > 0:
            now = taken[-1][1]
        if before is not None and now is not None:
            images = (inputs.get(role) or {}).get("count")
            return Accuracy(name, float(before), float(now), images)
    return None
