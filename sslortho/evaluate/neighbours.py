"""Search for the nearest neighbours of normalised features, in batches and over ranks."""

import math
import numbers

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from sslortho.evaluate.features import check_features, rows_before, sum_over_ranks, world_size

BLOCK = 2**22
"""Number of similarities at a time, 16 MiB."""

LOWER = 2**32 - 1
"""Mask of the lower half of a key."""


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
        check_k(k)
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
        """Add this rank's next rows of the bank, (batch, dim). No rows, of whatever length, add nothing.

        Raises ValueError for another shape.
        """
        check_features(features)
        if not len(features):  # `local_features` of a rank without images: (0, 0)
            return
        if features.shape[1] != self.queries.shape[1]:
            raise ValueError(
                f"features of shape {tuple(features.shape)} cannot be neighbours of queries of shape "
                f"{tuple(self.queries.shape)}"
            )
        features = unit_rows(features)
        self.bad += (~torch.isfinite(features)).any(dim=1).sum()
        rows = max(1, BLOCK // len(features))
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


def check_k(k: int) -> None:
    """Raise ValueError for a number of neighbours that is not whole, or below 1."""
    if not isinstance(k, numbers.Integral) or k < 1:
        raise ValueError(f"k={k} must be 1 or more, and a whole number")


def _check_finite(bad: int) -> None:
    if bad:
        raise ValueError(f"features of {bad} images are not finite; they have no neighbours")


def _gather_columns(keys: Tensor) -> Tensor:
    parts = [torch.empty_like(keys) for _ in range(world_size())]
    dist.all_gather(parts, keys.contiguous())
    return torch.cat(parts, dim=1)
