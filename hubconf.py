"""Entry point of torch.hub: `torch.hub.load("FOLDER", "backbone", source="local", weights="FILE")`."""

from torch import nn

from sslortho.models import BACKBONES, create_backbone, read_weights, restore_backbone
from sslortho.models.backbones import Stem

dependencies = ["safetensors", "timm", "torch", "torchvision"]


def backbone(
    weights: str | None = None,
    backbone: str | None = None,
    stem: Stem | None = None,
    weights_prefix: str | None = None,
) -> nn.Module:
    """Backbone in evaluation mode: images (batch, 3, height, width) to features (batch, dim).

    Args:
        weights: run folder or file of weights. None: random weights, for which `backbone` is needed.
        backbone: name among BACKBONES, another of torchvision's, or timm:NAME. None: as the file says,
            else recognised.
        stem: stock, small or solo_learn. None: as the file says, else recognised; needed for a 3x3 first
            convolution whose padding the file does not say.
        weights_prefix: beginning of the names in the file; needed if several networks in it fit.

    Raises:
        ValueError: neither weights nor a name are given, or they do not fit each other.
    """
    if weights is not None:
        return restore_backbone(read_weights(weights), backbone, stem, weights_prefix).network
    if backbone is None:
        raise ValueError(f"give weights, a file, or backbone: {', '.join(BACKBONES)} or timm:NAME")
    return create_backbone(backbone, stem or "stock").eval()
