"""Where a network lies: its device, its memory format, and ranks that share batch norm statistics."""

import torch
from torch import nn

from sslortho.models.sync_batch_norm import convert_sync_batch_norm


def place_network(
    network: nn.Module, device: torch.device, *, channels_last: bool, sync_batch_norm: bool
) -> None:
    """Move a network to a device, in place.

    Args:
        network: on the CPU.
        device: where it trains.
        channels_last: memory format of its convolutions.
        sync_batch_norm: compute batch norm statistics over all ranks.
    """
    if sync_batch_norm:
        convert_sync_batch_norm(network, device)
    network.to(device)
    if channels_last:
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
