"""Gathering a batch from all ranks, differentiably."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def _gather(local: Tensor) -> Tensor:
    parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, local.contiguous())
    return torch.cat(parts)


def _apply_if_several(function: type[torch.autograd.Function], local: Tensor) -> Tensor:
    """Result of a function of this file; on one rank the tensor itself."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return local
    result = function.apply(local)
    assert isinstance(result, Tensor)
    return result


class _GatherBatch(torch.autograd.Function):
    """Concatenation over ranks, for a loss that every rank computes alike."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        ctx.start = dist.get_rank() * local.shape[0]
        ctx.size = local.shape[0]
        return _gather(local)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # The adjoint of a gather sums, over the ranks, their gradients of our rows. Every rank
        # computes the same loss, so the sum is our own gradient times the number of ranks.
        rows = grads[0][ctx.start : ctx.start + ctx.size]
        return rows * dist.get_world_size()


def gather_batch(local: Tensor) -> Tensor:
    """Concatenate the batches of all ranks, in rank order, differentiably.

    For a loss that every rank computes alike from the result. The gradient is that of the sum of all
    ranks' losses, so after DistributedDataParallel's mean it is that of one loss.

    Args:
        local: (batch, ...), of the same shape on every rank.

    Returns:
        (ranks * batch, ...); on one rank the input itself.
    """
    return _apply_if_several(_GatherBatch, local)


class _GatherParts(torch.autograd.Function):
    """Concatenation over ranks, for a loss that each rank computes of its own rows."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        ctx.size = local.shape[0]
        return _gather(local)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total[dist.get_rank() * ctx.size :][: ctx.size]


def gather_parts(local: Tensor) -> Tensor:
    """Concatenate the batches of all ranks, in rank order, differentiably.

    For losses that differ from rank to rank: the gradient is that of the sum of all ranks' losses.

    Args:
        local: (batch, ...), of the same shape on every rank.

    Returns:
        (ranks * batch, ...); on one rank the input itself.
    """
    return _apply_if_several(_GatherParts, local)


class _MeanOverRanks(torch.autograd.Function):
    """Mean over ranks, for a loss that every rank computes alike."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.contiguous().clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # The adjoint of a mean is the mean of the ranks' gradients, and theirs are all the same.
        return grads[0]


def mean_over_ranks(local: Tensor) -> Tensor:
    """Mean of a tensor over all ranks, differentiably.

    For a loss that every rank computes alike from the result. The gradient is that of the sum of all
    ranks' losses, so after DistributedDataParallel's mean it is that of one loss.

    Args:
        local: of the same shape on every rank.

    Returns:
        a tensor of that shape; on one rank the input itself.
    """
    return _apply_if_several(_MeanOverRanks, local)


def count_ranks() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own_rank() -> int:
    """Number of this rank; 0 without ranks."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
