"""What export.py can be told."""

from dataclasses import dataclass
from typing import Literal

from sslortho.recipes.options import Checked


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Checked):
    """Write a backbone as a file for timm, torchvision, torch.hub or ONNX."""

    backbone_from: str
    """Run folder, or weights file of ours, torchvision, timm, facebookresearch/barlowtwins, lightly or
    solo-learn."""
    format: Literal["timm", "torchvision", "hub", "onnx"]
    """timm: for timm.create_model(checkpoint_path=...). torchvision: for load_state_dict of its model.
    hub: for torch.hub.load of this project, which has every backbone. onnx: needs the extra [onnx]."""
    out: str
    """File to write. A state dict is written as safetensors if its name ends in .safetensors, else as
    torch.save does."""
    backbone: str | None = None
    """Backbone by name: resnet50, ..., or timm:NAME. Default: what the weights are of."""
    stem: Literal["auto", "stock", "small", "solo_learn"] = "auto"
    """First layers of torchvision's networks. solo_learn: its CIFAR networks, small and padded by 2.
    auto: what the weights are of."""
    weights_prefix: str | None = None
    """Names in the weights file begin with it; needed where several networks in it fit."""
    crop_size: int | None = None
    """Side of the images of format onnx, in pixels. Default: as the backbone was pretrained; where the
    weights do not say, 224."""
    overwrite: bool = False
    """Replace an existing file."""
    debug: bool = False
    """Show the traceback of an error that is the user's."""

    def __post_init__(self) -> None:
        self._check_least(1, "crop_size")
        self._check_effect("format", crop_size=self.format != "onnx" and self.crop_size is not None)
        super().__post_init__()
