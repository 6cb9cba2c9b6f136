"""Batch norm over the batch of all ranks, on any device.

torch's own SyncBatchNorm refuses CPU tensors; this module computes the same sums with collectives that
every backend has. On CUDA `convert_sync_batch_norm` takes torch's, which is faster. timm takes seconds
to import, so it is imported where a module is converted.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from timm.layers.norm_act import BatchNormAct2d


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


def _several_ranks() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class SyncBatchNorm(_BatchNorm):
    """Batch norm over the batches of all ranks together.

    Maps (batch, channels, ...) to the same shape, on any device. Batch sizes may differ between ranks,
    the other dimensions may not. Parameters, buffers and state dict have the names of torch's batch
    norms. On one rank, and in evaluation mode, the result is exactly torch's.

    Raises:
        ValueError: the input has fewer than two dimensions.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected (batch, channels, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and _several_ranks()):
            return super().forward(input)
        self._check_input_dim(input)
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        dims = [d for d in range(x.ndim) if d != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = x.new_full((1,), x.numel() / x.shape[1])
        sums = _SumOverRanks.apply(torch.cat([x.sum(dims), count]))
        assert isinstance(sums, Tensor)
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = x - mean.view(shape)
        # A second all-reduce, since E[x^2] - E[x]^2 in one pass loses digits to cancellation.
        squares = _SumOverRanks.apply(centred.square().sum(dims))
        assert isinstance(squares, Tensor)
        variance = squares / total
        self._update_running_statistics(mean.detach(), variance.detach(), total)
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        out = centred * scale.view(shape)
        if self.affine:
            out = out + self.bias.view(shape)
        return out.to(input.dtype)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor, total: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / float(self.num_batches_tracked)
        unbiased = variance * (total / (total - 1))
        for running, value in ((self.running_mean, mean), (self.running_var, unbiased)):
            # in the wider of the two, and rounded once
            dtype = torch.promote_types(running.dtype, value.dtype)
            running.copy_(running.to(dtype).lerp(value.to(dtype), momentum))


class SyncBatchNormAct(SyncBatchNorm):
    """Batch norm over all ranks with the dropout and activation of timm's `BatchNormAct2d`."""

    def __init__(self, fused: "BatchNormAct2d") -> None:
        super().__init__(*_arguments(fused))  # pyright: ignore[reportArgumentType]
        self.drop: nn.Module = fused.drop  # pyright: ignore[reportAttributeAccessIssue]
        self.act: nn.Module = fused.act  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))


def _arguments(norm: _BatchNorm) -> tuple[Any, ...]:
    return norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats


def convert_sync_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace every batch norm inside `module` by one over all ranks, keeping parameters and buffers.

    On CUDA the new ones are torch's, placed by timm, which knows its own fused norms; elsewhere they
    are ours. Returns `module`, changed in place, or its replacement if it is itself a batch norm.
    """
    from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm

    if device.type == "cuda":
        return convert_sync_batchnorm(module)
    if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
        if isinstance(module, BatchNormAct2d):
            sync = SyncBatchNormAct(module)
        else:
            sync = SyncBatchNorm(*_arguments(module))
        # the same tensors, not copies: an optimizer may hold them already
        sync._parameters = module._parameters
        sync._buffers = module._buffers
        sync.train(module.training)
        return sync
    for name, child in module.named_children():
        setattr(module, name, convert_sync_batch_norm(child, device))
    return module
