"""Weighted nearest neighbours on normalised features (arXiv 1805.01978, section 3.4)."""

import math
import numbers

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from sslortho.evaluate.accuracy import AccuracyCounts
from sslortho.evaluate.features import check_features, rows_before, sum_over_ranks, world_size

PRESETS: dict[str, tuple[int, float]] = {
    # benchmarks/imagenet/resnet50/main.py of lightly: --knn-k, --knn-t
    "lightly": (200, 0.1),
    # eval_knn.py of facebookresearch/dino: --temperature, and --nb_knn: "20 is usually working the
    # best"; arXiv 1805.01978 has 200 and 0.07
    "dino": (20, 0.07),
}
"""k and temperature, by the code base that publishes with them."""

BLOCK = 2**22
"""Number of similarities at a time, 16 MiB."""

BANK_BATCH = 512
"""Rows of the bank that `knn_predict` adds at a time."""

LOWER = 2**32 - 1
"""Mask of the lower half of a key."""


UNDERFLOW = 1e-300
"""Share of the nearest neighbour's vote below which float64 numbers lose digits, and then vanish."""


def _flip(bits: Tensor) -> Tensor:
    # IEEE 754 orders positive numbers as their bits do, negative ones the other way round
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def to_keys(similarities: Tensor, indices: Tensor) -> Tensor:
    """int64 keys; the larger key has the higher similarity, or the same and the lower index.

    The upper half holds the similarity (float32, not nan), the lower half LOWER - index. So an offset
    is added to the index by subtracting it from the key.
    """
    ordered = _flip((similarities + 0.0).view(torch.int32))  # -0.0 + 0.0 is 0.0
    return (ordered.long() << 32) | (LOWER - indices)


def from_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Similarities float32 and indices int64 of keys; the inverse of `to_keys`."""
    return _flip((keys >> 32).int()).view(torch.float32), LOWER - (keys & LOWER)


EMPTY = int(to_keys(torch.tensor(-torch.inf), torch.tensor(0)))
"""Key of an empty place; below the keys of all finite similarities."""


def unit_rows(features: Tensor) -> Tensor:
    """Rows (n, dim) divided by their length, float32; a row of zeros stays one.

    Rows whose squares float32 cannot add are divided in float64.
    """
    rows = features.float()
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    unit = rows / length.clamp_min(1e-12)  # as functional.normalize
    odd = (~((length > 1e-12) & (length < math.inf))).squeeze(1).nonzero().squeeze(1)
    if len(odd):
        exact = features[odd].double()
        exact = exact / exact.abs().amax(dim=1, keepdim=True).clamp_min(5e-324)
        unit[odd] = functional.normalize(exact, dim=1).float()
    return unit


class NeighbourSearch:
    """Search for the k most similar rows (by cosine) of a bank, for each query; the bank is not kept.

    The bank is added batch by batch, and each rank adds its own part. For `result` the bank is the rows
    of rank 0, then those of rank 1, and so on. Among equal similarities the lower index comes first.
    The result is the same to the last bit on any number of ranks if the batches are the same, as those
    of an evaluation loader are. Products are float32, on a GPU as exact as
    `torch.set_float32_matmul_precision` says.

    Args:
        queries: (m, dim), the same on every rank.
        k: neighbours, 1 or more.

    Raises:
        ValueError: k below 1, queries of another shape or not finite.
    """

    def __init__(self, queries: Tensor, k: int) -> None:
        _check_k(k)
        check_features(queries)
        if not queries.shape[1]:
            raise ValueError(
                f"features of shape {tuple(queries.shape)} have no dimension to compare"
            )
        _check_finite(int((~torch.isfinite(queries)).any(dim=1).sum()))
        self.queries = unit_rows(queries)
        self.keys = torch.full((len(queries), k), EMPTY, device=queries.device)
        self.count = 0
        self.bad = torch.zeros((), dtype=torch.int64, device=queries.device)

    @torch.no_grad()
    def add(self, features: Tensor) -> None:
        """Add this rank's next rows of the bank, (batch, dim). Raises ValueError for another shape."""
        check_features(features)
        if features.shape[1] != self.queries.shape[1]:
            raise ValueError(
                f"features of shape {tuple(features.shape)} cannot be neighbours of queries of shape "
                f"{tuple(self.queries.shape)}"
            )
        features = unit_rows(features)
        self.bad += (~torch.isfinite(features)).any(dim=1).sum()
        rows = max(1, BLOCK // max(1, len(features)))
        with torch.autocast(features.device.type, enabled=False):
            for queries, keys in zip(self.queries.split(rows), self.keys.split(rows), strict=True):
                self._merge(keys, queries @ features.mT)
        self.count += len(features)

    def _merge(self, keys: Tensor, similarities: Tensor) -> None:
        # few are above the worst that is kept, so only those are merged; an equal one comes later in
        # the bank, and is dropped
        worst, _ = from_keys(keys.amin(dim=1, keepdim=True))
        row, column = (similarities > worst).nonzero(as_tuple=True)
        if not len(row):
            return
        counts = torch.bincount(row, minlength=len(keys))
        candidates = keys.new_full((len(keys), int(counts.max())), EMPTY)
        place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        candidates[row, place] = to_keys(similarities[row, column], self.count + column)
        changed = counts.nonzero().squeeze(1)
        both = torch.cat([keys[changed], candidates[changed]], dim=1)
        keys[changed] = both.topk(keys.shape[1], dim=1, sorted=False).values

    @torch.no_grad()
    def result(self, gather_distributed: bool = True) -> tuple[Tensor, Tensor]:
        """Similarities float32 and indices in the bank int64, both (m, k), nearest first.

        A bank of fewer than k rows gives all of them.

        Args:
            gather_distributed: whether the bank is all ranks' parts, and then every rank must call, or
                this rank's part alone.

        Raises:
            ValueError: nothing was added, or features that are not finite.
        """
        totals = torch.stack([torch.full_like(self.bad, self.count), self.bad])
        before, ranks = 0, 1
        if gather_distributed:
            before, ranks = rows_before(self.count, totals.device), world_size()
            totals = sum_over_ranks(totals)
        total, bad = totals.tolist()
        _check_finite(bad)
        if not total:
            raise ValueError("the bank is empty: add features before asking for neighbours")
        keys = self.keys - before
        rows = max(1, BLOCK // (keys.shape[1] * ranks))
        k = min(keys.shape[1], total)
        merged = [
            (_gather_columns(part) if ranks > 1 else part).topk(k, dim=1).values
            for part in keys.split(rows)
        ]
        return from_keys(torch.cat(merged))


def _check_k(k: int) -> None:
    if not isinstance(k, numbers.Integral) or k < 1:
        raise ValueError(f"k={k} must be 1 or more, and a whole number")


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature} must be above 0, and finite")


def _check_finite(bad: int) -> None:
    if bad:
        raise ValueError(f"features of {bad} images are not finite; they have no neighbours")


def _gather_columns(keys: Tensor) -> Tensor:
    parts = [torch.empty_like(keys) for _ in range(world_size())]
    dist.all_gather(parts, keys.contiguous())
    return torch.cat(parts, dim=1)


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
    _check_k(k)
    _check_temperature(temperature)
    check_features(bank, labels)
    search = NeighbourSearch(queries, max(1, min(k, len(bank))))
    for part in bank.split(BANK_BATCH):
        search.add(part)
    similarities, neighbours = search.result(gather_distributed=False)
    classes = int(labels.max()) + 1
    rows = max(1, BLOCK // classes)
    return torch.cat(
        [
            vote(part, voters, classes, temperature).argmax(dim=1)
            for part, voters in zip(
                similarities.split(rows), labels[neighbours].split(rows), strict=True
            )
        ]
    )
