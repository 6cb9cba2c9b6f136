"""Gathering a batch from all ranks, differentiably."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _GatherBatch(torch.autograd.Function):
    """Concatenation over ranks, for a loss that every rank computes alike."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local.contiguous())
        ctx.start = dist.get_rank() * local.shape[0]
        ctx.size = local.shape[0]
        return torch.cat(parts)

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
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return local
    result = _GatherBatch.apply(local)
    assert isinstance(result, Tensor)
    return result
