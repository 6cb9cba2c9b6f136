"""Features of a whole data set."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sslortho.data import Batch


def gather_rows(local: Tensor) -> Tensor:
    """Concatenate (n, ...) of all ranks in rank order; n may differ between ranks."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return local
    world_size = dist.get_world_size()
    size = torch.tensor([local.shape[0]], device=local.device)
    sizes = [torch.empty_like(size) for _ in range(world_size)]
    dist.all_gather(sizes, size)
    counts = [int(s) for s in sizes]
    padded = local.new_zeros(max(counts), *local.shape[1:])
    padded[: local.shape[0]] = local
    parts = [torch.empty_like(padded) for _ in range(world_size)]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


@torch.no_grad()
def extract_features(backbone: nn.Module, loader: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Features float32 (n, dim) and labels int64 (n,) of all ranks' shares, in order.

    The backbone is in evaluation mode meanwhile, so its statistics stay untouched, and is put back
    into the mode it was in.
    """
    modes = [(module, module.training) for module in backbone.modules()]
    backbone.eval()
    features, labels = [], []
    for batch in loader:
        features.append(backbone(batch.views[0]).float())
        labels.append(batch.labels)
    for module, training in modes:
        module.training = training
    return gather_rows(torch.cat(features)), gather_rows(torch.cat(labels))
