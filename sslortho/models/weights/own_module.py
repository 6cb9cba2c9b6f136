"""Weights of a file in a module that a user hands over, which no name tells."""

from torch import nn

from sslortho.models.network_facts import USUAL_SIZE, required_size
from sslortho.models.own_networks import copy_module, read_as_features
from sslortho.models.weights.file import WeightsFile, note_pretraining
from sslortho.models.weights.restore import load_backbone


def restore_module(weights: WeightsFile, module: nn.Module, prefix: str | None = None) -> nn.Module:
    """A copy of a module with the weights of a file, in evaluation mode on the CPU.

    It maps images (batch, 3, height, width) to features (batch, dim); see `read_as_features`.

    Args:
        weights: result of `read_weights`.
        module: of the architecture of the weights; it stays as it is.
        prefix: see `load_backbone`.

    Raises ValueError as `copy_module`, `load_backbone` and `read_as_features`.
    """
    network = copy_module(module, "model")
    load_backbone(network, weights, prefix)
    size = getattr(getattr(network, "config", None), "image_size", None)
    if weights.info is not None:
        size = weights.info.crop_size
    size = size if isinstance(size, int) else required_size(network) or USUAL_SIZE
    backbone = read_as_features(network, size).eval()
    note_pretraining(backbone, weights.info)
    return backbone
