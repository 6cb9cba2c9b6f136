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
    shape = torch.tensor(local.shape, device=local.device)
    shapes = [torch.empty_like(shape) for _ in range(world_size)]
    dist.all_gather(shapes, shape)
    counts = [int(s[0]) for s in shapes]
    # a rank without rows does not know how long they are
    row = tuple(torch.stack(shapes)[:, 1:].amax(dim=0).tolist()) if local.ndim > 1 else ()
    padded = local.new_zeros(max(counts), *row)
    if len(local):
        padded[: len(local)] = local
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
    if not features:  # a rank's share of a small data set may be empty
        device = next((p.device for p in backbone.parameters()), torch.device("cpu"))
        features = [torch.empty(0, 0, device=device)]
        labels = [torch.empty(0, dtype=torch.int64, device=device)]
    return gather_rows(torch.cat(features)), gather_rows(torch.cat(labels))
