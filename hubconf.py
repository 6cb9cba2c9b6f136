"""Entry points of torch.hub: `torch.hub.load("FOLDER", "backbone", source="local", weights="FILE")`."""

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
    """A backbone in evaluation mode: images (batch, 3, height, width) to features (batch, dim).

    Args:
        weights: run folder or file of weights; None for initial weights, which needs a name.
        backbone: its name: one of BACKBONES, or timm:NAME. None: as the file says, or recognised.
        stem: stock, small or solo_learn. None: likewise.
        weights_prefix: names in the file begin with it; needed where several networks in it fit.
    """
    if weights is not None:
        return restore_backbone(read_weights(weights), backbone, stem, weights_prefix).network
    if backbone is None:
        raise ValueError(f"give weights, a file, or backbone: {', '.join(BACKBONES)} or timm:NAME")
    return create_backbone(backbone, stem or "stock").eval()
