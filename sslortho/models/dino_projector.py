"""The projector of DINO (arXiv 2104.14294, section 3.1)."""

import warnings
from collections.abc import Sequence
from typing import Any

from lightly.models.modules import DINOProjectionHead
from torch import nn
from torch.nn.utils.parametrizations import weight_norm


def create_dino_projector(
    dim: int, widths: Sequence[int], batch_norm: bool, freeze_epochs: int
) -> DINOProjectionHead:
    """lightly's, but for torch's newer weight normalisation, with which it can be copied.

    Args:
        dim: features of the backbone.
        widths: of two hidden layers, the bottleneck and the output.
        batch_norm: after the hidden layers; the paper's for convolutional networks, not for transformers.
        freeze_epochs: for which `cancel_last_layer_gradients` does so.

    Maps (batch, dim) to (batch, widths[2]). The rows of the output layer have length 1.
    """
    hidden, bottleneck, output = widths
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the older one
        head = DINOProjectionHead(dim, hidden, bottleneck, output, batch_norm, freeze_epochs)
    last: Any = weight_norm(nn.Linear(bottleneck, output, bias=False))
    last.parametrizations.weight.original0.requires_grad_(False).fill_(1)
    head.last_layer = last
    return head
