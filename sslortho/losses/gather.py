"""The batch of all ranks, with a gradient."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _GatherBatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local.contiguous())
        ctx.start = dist.get_rank() * local.shape[0]
        ctx.size = local.shape[0]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # The adjoint of a gather is the sum over ranks of what each wants of our rows. Every rank
        # computes the same loss, so that sum is our own rows times the number of ranks.
        rows = grads[0][ctx.start : ctx.start + ctx.size]
        return rows * dist.get_world_size()


def gather_batch(local: Tensor) -> Tensor:
    """Concatenate (batch, ...) of all ranks, in rank order, differentiably.

    For a loss that every rank computes alike from the result. The gradient is that of the sum of
    all ranks' losses, so that the mean that DistributedDataParallel takes is the gradient of one.
    Every rank must bring the same shape. On one rank, the input itself.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return local
    result = _GatherBatch.apply(local)
    assert isinstance(result, Tensor)
    return result
