"""Weighted nearest neighbours on normalised features (arXiv 1805.01978, section 3.4)."""

import math

import torch
from torch import Tensor

from sslortho.evaluate.accuracy import AccuracyCounts
from sslortho.evaluate.features import check_features
from sslortho.evaluate.neighbours import BLOCK, NeighbourSearch, check_k

PRESETS: dict[str, tuple[int, float]] = {
    # benchmarks/imagenet/resnet50/main.py of lightly: --knn-k, --knn-t
    "lightly": (200, 0.1),
    # eval_knn.py of facebookresearch/dino: --temperature, and --nb_knn: "20 is usually working the
    # best"; arXiv 1805.01978 has 200 and 0.07
    "dino": (20, 0.07),
}
"""k and temperature, by the code base that publishes with them."""

BANK_BATCH = 512
"""Rows of the bank that `knn_predict` adds at a time."""

UNDERFLOW = 1e-300
"""Share of the nearest neighbour's vote below which float64 numbers lose digits, and then vanish."""


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature} must be above 0, and finite")


@torch.no_grad()
def vote(similarities: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """Scores float64 (m, classes): each neighbour votes for its class with exp(cosine / temperature).

    The votes are divided by that of the nearest neighbour, so that a low temperature does not
    overflow; the order of the classes stays the same. A class without a vote has 0. So has one whose
    votes are less than 1e-308 of the nearest's; `rank_votes` tells the two apart.

    Args:
        similarities: (m, k), nearest first.
        labels: int64 (m, k), the neighbours' classes.
        classes: number of classes; labels are from 0 to classes - 1.
        temperature: above 0.

    Raises:
        ValueError: a temperature out of range, other shapes or types, labels out of range.
    """
    _check_temperature(temperature)
    if similarities.ndim != 2 or labels.shape != similarities.shape or labels.dtype != torch.int64:
        raise ValueError(
            "similarities and the neighbours' labels must both be (m, k), the latter int64, got "
            f"{tuple(similarities.shape)} and {labels.dtype} {tuple(labels.shape)}"
        )
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"neighbours have labels from {int(labels.min())} to {int(labels.max())}, expected 0 to "
            f"{classes - 1}: only labelled images can vote"
        )
    similarities = similarities.double()
    weights = ((similarities - similarities[:, :1]) / temperature).exp()
    scores = weights.new_zeros(len(weights), classes)
    # one neighbour at a time: on a GPU the sum over all at once has another order every time
    for neighbour in range(weights.shape[1]):
        column = slice(neighbour, neighbour + 1)
        scores.scatter_add_(1, labels[:, column], weights[:, column])
    return scores


@torch.no_grad()
def rank_votes(similarities: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """Scores float64 (m, classes) in the order of the votes, -inf for a class without one.

    They are those of `vote`. In place of votes that underflow there are their logarithms, which are
    negative. See `vote` for the arguments and what raises.
    """
    scores = vote(similarities, labels, classes, temperature)
    best = scores.new_full(scores.shape, -math.inf)
    best.scatter_reduce_(1, labels, similarities.double(), "amax")
    lost = (scores < UNDERFLOW) & (best > -math.inf)
    if lost.any():
        # relative to each class's own nearest neighbour, so that no sum is zero
        own = ((similarities.double() - best.gather(1, labels)) / temperature).exp()
        sums = torch.zeros_like(scores)
        for neighbour in range(own.shape[1]):
            column = slice(neighbour, neighbour + 1)
            sums.scatter_add_(1, labels[:, column], own[:, column])
        logarithms = (best - similarities[:, :1].double()) / temperature + sums.log()
        least = torch.finfo(scores.dtype).min  # -inf would mean that the class has no vote
        scores = torch.where(lost, logarithms.clamp_min(least), scores)
    return scores.masked_fill(best == -math.inf, -math.inf)


def knn_accuracy(
    similarities: Tensor, neighbours: Tensor, labels: Tensor, classes: int, temperature: float
) -> dict[str, float]:
    """{"top1", "top5"}: percentage of queries whose class wins the vote, or is among the best five.

    Only classes with a vote count: with votes for two classes there are no best five, but two. Among
    equal votes the lower class comes first. The scores of all queries are never held at once.

    Args:
        similarities: (m, k), nearest first.
        neighbours: int64 (m, k), the neighbours' classes.
        labels: int64 (m,), the queries' classes.
        classes, temperature: see `vote`, also for what raises.
    """
    if classes < 1 or len(similarities) != len(labels):
        raise ValueError(
            f"classes={classes} must be 1 or more, and the {len(labels)} labels one for each of "
            f"{len(similarities)} queries"
        )
    counts = AccuracyCounts()
    rows = max(1, BLOCK // classes)
    parts = (tensor.split(rows) for tensor in (similarities, neighbours, labels))
    for part, voters, truth in zip(*parts, strict=True):
        scores = rank_votes(part, voters, classes, temperature)
        counts.add(scores, truth, candidates=scores != -math.inf)
    return counts.percentages()


def knn_predict(
    bank: Tensor, labels: Tensor, queries: Tensor, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Class of each query by a vote of its k nearest neighbours, weighted exp(cosine / temperature).

    Among equal votes the lower class wins. For features in memory; ranks exchange nothing.
    `NeighbourSearch` is for a bank in batches.

    Args:
        bank: (n, dim), features.
        labels: int64 (n,), their classes, from 0.
        queries: (m, dim).
        k: neighbours; all of the bank if it holds fewer.
        temperature: above 0.

    Returns:
        int64 (m,).

    Raises:
        ValueError: as `NeighbourSearch` and `vote`.
    """
    check_k(k)
    _check_temperature(temperature)
    check_features(bank, labels)
    search = NeighbourSearch(queries, max(1, min(k, len(bank))))
    for part in bank.split(BANK_BATCH):
        search.add(part)
    similarities, neighbours = search.result(gather_distributed=False)
    classes = max(1, int(labels.max()) + 1)  # of images without labels `vote` says so
    rows = max(1, BLOCK // classes)
    return torch.cat(
        [
            vote(part, voters, classes, temperature).argmax(dim=1)
            for part, voters in zip(
                similarities.split(rows), labels[neighbours].split(rows), strict=True
            )
        ]
    )
