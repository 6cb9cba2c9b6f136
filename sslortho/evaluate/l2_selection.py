"""Selection of a linear probe's l2, on training images that are held out for it."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from sslortho.evaluate.accuracy import AccuracyCounts
from sslortho.evaluate.features import check_features, gather_rows, rows_before, world_size
from sslortho.evaluate.linear_probe import LogisticRegression, block_rows

CANDIDATES = tuple(10.0**exponent for exponent in range(1, -7, -1))
"""Values of l2 that are tried, a decade apart. arXiv 1805.08974 tries 45 values from 1e-6 to 1e5, a
quarter of a decade apart; with standardised features and a mean loss, more than 10 only shrinks."""

HELD_OUT = 0.1
"""Share of the training images that l2 is chosen on."""


@dataclass(frozen=True)
class Trial:
    """Figures of one l2 on the held-out images."""

    l2: float
    top1: float
    """Percentage."""
    loss: float
    """Mean cross-entropy."""
    converged: bool


@dataclass(frozen=True)
class Selection:
    """The chosen l2, and all trials, strongest l2 first."""

    l2: float
    trials: tuple[Trial, ...]
    at_edge: bool
    """Whether it is the first or the last candidate; the best value may lie beyond."""


def held_out_mask(labels: Tensor, share: float, seed: int) -> Tensor:
    """Mask of the samples to hold out, bool (n,) on the CPU.

    `share` of each class is held out, at least one image, but never all of a class.

    Args:
        labels: int64 (n,), of all ranks.
        share: between 0 and 1.
        seed: of the choice.
    """
    classes = labels.cpu().numpy()
    draws = np.random.Generator(np.random.Philox(key=seed)).random(len(classes))
    order = np.lexsort((draws, classes))
    counts = np.bincount(classes)
    place = np.empty(len(classes), dtype=np.int64)
    place[order] = np.arange(len(classes)) - np.repeat(np.cumsum(counts) - counts, counts)
    quota = np.minimum(np.maximum(np.rint(share * counts), 1), counts - 1)
    return torch.from_numpy(place < quota[classes])


def select_l2(
    features: Tensor,
    labels: Tensor,
    *,
    candidates: Sequence[float] = CANDIDATES,
    held_out: float = HELD_OUT,
    seed: int = 0,
    classes: int | None = None,
) -> Selection:
    """Find the l2 that is best on held-out training images, when fitted to the others.

    The caller then fits it to all of them. Best is the highest accuracy, then the lowest loss, then the
    strongest l2. The candidates go from strong to weak, each fit starting at the one before. The
    held-out images are a function of (seed, labels), not of the number of ranks. Every rank must call.

    Args:
        features, labels, classes: see `LogisticRegression`.
        candidates: values of l2, two or more.
        held_out: share of each class that is held out, see `held_out_mask`.
        seed: of the choice of images.

    Raises:
        ValueError: as `LogisticRegression`; no class has two images; an argument out of range.
    """
    values = sorted(set(candidates), reverse=True)
    if len(values) < 2 or not values[-1] > 0:
        raise ValueError(f"candidates={tuple(candidates)} must be two or more, all above 0")
    check_features(features, labels)
    everyones = gather_rows(labels)
    held, fitted = _split(labels, everyones, held_out, seed)
    classes = int(everyones.max()) + 1 if classes is None else classes
    trials, probe = [], None
    for l2 in values:
        probe = LogisticRegression(features, labels, l2, classes=classes, rows=fitted, start=probe)
        trials.append(_try(probe, features, labels, held))
    best = min(trials, key=lambda trial: (-trial.top1, trial.loss, -trial.l2))
    at_edge = best in (trials[0], trials[-1])
    if at_edge and (world_size() == 1 or dist.get_rank() == 0):
        warnings.warn(
            f"l2={best.l2:g} is the end of the candidates ({values[0]:g} to {values[-1]:g}); the best "
            "may lie beyond",
            stacklevel=2,
        )
    return Selection(best.l2, tuple(trials), at_edge)


def _split(labels: Tensor, everyones: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of this rank's rows to hold out, and of those to fit to, both int64."""
    if not 0 < share < 1:
        raise ValueError(f"held_out={share} must be between 0 and 1")
    if len(everyones) and int(everyones.min()) < 0:
        raise ValueError(f"labels go down to {int(everyones.min())}: all need a class, from 0")
    mask = held_out_mask(everyones, share, seed)
    if not mask.any():
        raise ValueError("no class has two images, so none can be held out; give l2 yourself")
    first = rows_before(len(labels), labels.device)
    mask = mask[first : first + len(labels)].to(labels.device)
    return mask.nonzero().squeeze(1), (~mask).nonzero().squeeze(1)


def _try(probe: LogisticRegression, features: Tensor, labels: Tensor, held: Tensor) -> Trial:
    counts = AccuracyCounts(logits=True)
    for rows in held.split(block_rows(features, max(probe.weight.shape))):
        if len(rows):
            counts.add(probe.logits(features[rows]), labels[rows])
    counts = counts.reduce()
    return Trial(probe.l2, counts.percentages()["top1"], counts.mean_loss(), probe.converged)
