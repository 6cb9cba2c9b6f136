"""Parts of evaluations: nearest neighbours and the linear probe."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sslortho.evaluate.knn import BANK_BATCH
from sslortho.evaluate.linear_probe import LogisticRegression
from sslortho.evaluate.neighbours import NeighbourSearch

from .part import IMAGENET, Part, Work

DIM = 2048
"""Entries of a feature, ResNet-50's."""

QUERIES, K = 256, 20

CLASSES, ITERATIONS = 100, 10
"""Classes of the probe, and iterations of L-BFGS, after which it stops: the number that it needs depends on
the features and not on how many they are."""


class ShortProbe(LogisticRegression):
    """A probe of ITERATIONS."""

    MAX_ITERATIONS = ITERATIONS


def _features(count: int) -> Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(0))


def _search(ranks: int) -> Callable[[int, Path], Work]:
    """The bank goes by in batches, as an evaluation adds it; one batch is made, and added again and again."""

    def prepare(size: int, place: Path) -> Work:
        queries, batch = _features(QUERIES), _features(BANK_BATCH)

        def work() -> None:
            search = NeighbourSearch(queries, K)
            left = size // ranks
            while left > 0:
                search.add(batch[:left])
                left -= BANK_BATCH
            search.result(gather_distributed=ranks > 1)

        return work

    return prepare


def _probe(ranks: int) -> Callable[[int, Path], Work]:
    def prepare(size: int, place: Path) -> Work:
        features = _features(size // ranks)
        labels = torch.arange(len(features)) % CLASSES
        return lambda: ShortProbe(features, labels, classes=CLASSES)

    return prepare


KNN = f"find the {K} nearest features for {QUERIES} queries, {DIM} entries each"
PROBE = f"fit a linear probe, {CLASSES} classes, {DIM} entries, {ITERATIONS} iterations of L-BFGS"

FEATURE_PARTS = {
    "knn": Part(
        KNN, "features", _search(1), (10_000, 30_000, 100_000, 300_000), (2_000, 8_000, 32_000), IMAGENET
    ),
    "knn_4_ranks": Part(
        f"{KNN}; four gloo ranks",
        "features", _search(4), (10_000, 30_000, 100_000), (4_000, 16_000), IMAGENET, 4,
    ),
    "probe": Part(PROBE, "features", _probe(1), (10_000, 20_000, 40_000), (500, 1_000, 2_000), IMAGENET),
    "probe_4_ranks": Part(
        f"{PROBE}; four gloo ranks",
        "features", _probe(4), (4_000, 10_000, 20_000), (1_000, 2_000), IMAGENET, 4,
    ),
}  # fmt: skip
"""Parts of evaluations by name."""
