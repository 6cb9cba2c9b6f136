"""Batch norm over the batch of all ranks, on any device.

torch's own SyncBatchNorm refuses CPU tensors; this module does the same sums with collectives that
every backend has. On CUDA `convert_sync_batch_norm` takes torch's, which is faster.
"""

from typing import Any

import torch
import torch.distributed as dist
from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


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
    """Batch norm whose training statistics are those of all ranks' batches together.

    Input (batch, channels, ...) on any device; ranks may differ in batch size, not in the rest.
    Parameters, buffers and state dict are those of torch's batch norms. On one rank, or in
    evaluation mode, exactly torch's batch norm.
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
        # The second pass is one more message, and spares the cancellation of E[x^2] - E[x]^2.
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
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


class SyncBatchNormAct(SyncBatchNorm):
    """timm's `BatchNormAct2d` over all ranks: a batch norm that ends in dropout and activation."""

    def __init__(self, fused: BatchNormAct2d) -> None:
        super().__init__(*_arguments(fused))  # pyright: ignore[reportArgumentType]
        self.drop: nn.Module = fused.drop  # pyright: ignore[reportAttributeAccessIssue]
        self.act: nn.Module = fused.act  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))


def _arguments(norm: _BatchNorm) -> tuple[Any, ...]:
    return norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats


def convert_sync_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace every batch norm inside `module` by one over all ranks, keeping parameters and buffers.

    torch's on CUDA (by timm, which knows its own fused norms), ours elsewhere. Returns the module,
    another one if it is itself a batch norm.
    """
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
