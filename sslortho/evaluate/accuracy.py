"""Accuracy of a classifier, counted exactly over any number of ranks.

Everywhere in this package the lower class comes first among equal scores, as in a stable sort. The order
of the images has no part in it.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sslortho.data import EvaluationLoader
from sslortho.evaluate.features import exchange_device, gather_rows, max_over_ranks, sum_over_ranks

BLOCK = 2**23
"""Number of scores that are handled at a time."""

Classify = Callable[[Tensor], Tensor]
"""Images (batch, 3, height, width) to scores (batch, classes)."""


def leave_out_top5(figures: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """Figures without those of the best five, where there are no more than five classes.

    Args:
        figures: by name; the ones that end in "top5" are meant.
        classes: number of classes that can be predicted.
    """
    return {name: v for name, v in figures.items() if classes > 5 or not name.endswith("top5")}


class NonFiniteScoresError(ValueError):
    """The scores of some images are not finite."""


def true_class_rank(scores: Tensor, labels: Tensor) -> Tensor:
    """Number of classes that come before the true one.

    These are the classes of a higher score, or of the same score and a lower index.

    Args:
        scores: (batch, classes).
        labels: int64 (batch,), the true classes.

    Returns:
        int64 (batch,).
    """
    true = scores.gather(1, labels.unsqueeze(1))
    lower_index = torch.arange(scores.shape[1], device=scores.device) < labels.unsqueeze(1)
    return ((scores > true) | ((scores == true) & lower_index)).sum(dim=1)


class AccuracyCounts:
    """Counts of this rank's correct classifications so far.

    `add` does not wait for the device. Wrong scores or labels raise only when the figures are read.

    Args:
        logits: whether the scores are logits, to measure their cross-entropy too.
    """

    def __init__(self, logits: bool = False) -> None:
        self.logits = logits
        self.counts: Tensor | None = None
        """int64 (5,): correct at 1, correct at 5, total, rows with non-finite scores, wrong labels."""
        self.extremes: Tensor | None = None
        """int64 (3,): minus the lowest label, the highest label, number of classes."""
        self.losses: list[Tensor] = []
        """Sums of cross-entropies, float64 (), one for each block that was added."""

    @torch.no_grad()
    def add(self, scores: Tensor, labels: Tensor, candidates: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            scores: real (batch, classes).
            labels: int64 (batch,), the true classes.
            candidates: bool (batch, classes), the classes that can be predicted; by default all. The
                scores of the others are not looked at.

        Raises ValueError for other shapes or types.
        """
        if scores.ndim != 2 or not scores.shape[1] or labels.shape != scores.shape[:1]:
            raise ValueError(
                f"scores of shape {tuple(scores.shape)} and labels of shape {tuple(labels.shape)} do "
                "not fit; expected (batch, classes) and (batch,)"
            )
        if scores.is_complex() or labels.dtype != torch.int64:
            raise ValueError(
                f"scores must be real and labels int64, got {scores.dtype} and {labels.dtype}"
            )
        if candidates is not None and (
            candidates.shape != scores.shape or candidates.dtype != torch.bool
        ):
            raise ValueError(
                f"candidates must be bool {tuple(scores.shape)}, as the scores, got "
                f"{candidates.dtype} {tuple(candidates.shape)}"
            )
        rows = max(1, BLOCK // max(1, scores.shape[1]))
        for start in range(0, len(scores), rows):
            part = slice(start, start + rows)
            chosen = None if candidates is None else candidates[part]
            self._add(scores[part], labels[part], chosen)

    def _add(self, scores: Tensor, labels: Tensor, candidates: Tensor | None) -> None:
        classes = scores.shape[1]
        known = labels.clamp(0, classes - 1)
        if candidates is None:
            rank = true_class_rank(scores, known)
        else:
            rank = true_class_rank(scores.masked_fill(~candidates, -math.inf), known)
            hopeless = torch.iinfo(torch.int64).max
            rank = rank.masked_fill(~candidates.gather(1, known.unsqueeze(1)).squeeze(1), hopeless)
            scores = scores.masked_fill(~candidates, 0.0)
        counts = torch.stack(
            [
                (rank < 1).sum(),
                (rank < 5).sum(),
                torch.full_like(rank[0], len(rank)),
                (~torch.isfinite(scores)).any(dim=1).sum(),
                (known != labels).sum(),
            ]
        )
        extremes = torch.stack([-labels.min(), labels.max(), torch.full_like(labels[0], classes)])
        self.counts = counts if self.counts is None else self.counts + counts
        self.extremes = (
            extremes if self.extremes is None else torch.maximum(self.extremes, extremes)
        )
        if self.logits:
            self.losses.append(functional.cross_entropy(scores.double(), known, reduction="sum"))

    def reduce(self) -> "AccuracyCounts":
        """Counts of all ranks together. Every rank must call, also one that added nothing."""
        device = exchange_device() if self.counts is None else self.counts.device
        zeros = torch.zeros(5, dtype=torch.int64, device=device)
        least = torch.full((3,), torch.iinfo(torch.int64).min, device=device)
        result = AccuracyCounts(self.logits)
        result.counts = sum_over_ranks(zeros if self.counts is None else self.counts.clone())
        result.extremes = max_over_ranks(least if self.extremes is None else self.extremes.clone())
        if self.logits:
            none = torch.empty(0, dtype=torch.float64, device=device)
            losses = gather_rows(torch.stack(self.losses) if self.losses else none)
            result.losses = list(losses.unbind())
        return result

    def _checked(self) -> tuple[int, int, int]:
        counts = [0] * 5 if self.counts is None else self.counts.tolist()
        top1, top5, total, bad_scores, bad_labels = counts
        if not total or self.extremes is None:
            raise ValueError("no images were classified, so there is no accuracy")
        if bad_labels:
            lowest, highest, classes = self.extremes.tolist()
            raise ValueError(
                f"{bad_labels} of {total} labels are not among 0 to {classes - 1}, the classes of the "
                f"scores; labels go from {-lowest} to {highest}"
            )
        if bad_scores:
            raise NonFiniteScoresError(
                f"the scores of {bad_scores} of {total} images are not finite: the backbone's features "
                "are not, or the classifier has diverged (train at a lower rate, evaluate in float32)"
            )
        return top1, top5, total

    def percentages(self) -> dict[str, float]:
        """{"top1", "top5"}: percentage of images whose class has the best score, or one of the best five.

        Raises:
            NonFiniteScoresError: scores that are not finite.
            ValueError: labels that are not classes of the scores, or no images.
        """
        top1, top5, total = self._checked()
        return {"top1": 100 * top1 / total, "top5": 100 * top5 / total}

    def mean_loss(self) -> float:
        """Mean cross-entropy over all classes, the same to the last bit on any number of ranks.

        Raises as `percentages`. Needs `logits`.
        """
        assert self.logits
        _, _, total = self._checked()
        return math.fsum(torch.stack(self.losses).tolist()) / total


def evaluate_classifier(classify: Classify, loader: EvaluationLoader) -> dict[str, float]:
    """{"top1", "top5"} in percent and "test_loss", the mean cross-entropy, over all ranks' images.

    Every rank must call. Modules stay in the mode that they are in.

    Args:
        classify: images (batch, 3, height, width) to logits (batch, classes).
        loader: evaluation views of the test set.

    Raises:
        ValueError: see `AccuracyCounts`.
    """
    counts = AccuracyCounts(logits=True)
    for batch in loader:
        with torch.no_grad():
            counts.add(classify(batch.views[0]), batch.labels)
    counts = counts.reduce()
    return {**counts.percentages(), "test_loss": counts.mean_loss()}
