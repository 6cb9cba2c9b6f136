"""Options of `export`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from sslortho.options import Options, option


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """Write a backbone for timm, torchvision, torch.hub, ONNX or Hugging Face's hub."""

    command: ClassVar[str] = "export"

    backbone_from: str = option(required=True, group="model and method", path=True)
    """Run folder, or weights file of ours, torchvision, timm, facebookresearch/barlowtwins, lightly or
    solo-learn."""
    format: Literal["timm", "torchvision", "hub", "onnx", "huggingface"] = option(
        required=True, group="output"
    )
    """timm: for timm.create_model(checkpoint_path=...). torchvision: for load_state_dict of its model.
    hub: for torch.hub.load of this project, which has every backbone. onnx: needs the extra [onnx].
    huggingface: a folder with weights, configuration and model card, for timm and the hub."""
    out: str = option(required=True, group="output", path=True)
    """File to write; for huggingface a folder. A state dict is written as safetensors if the name ends in
    .safetensors, else as torch.save does."""
    backbone: str | None = option(None, group="model and method")
    """Backbone by name: resnet50, ..., or timm:NAME. Default: as the weights say."""
    stem: Literal["auto", "stock", "small", "solo_learn"] = option(
        "auto", group="model and method", rare=True
    )
    """First layers of torchvision's networks. solo_learn: its CIFAR networks, small and padded by 2.
    auto: as the weights say; needed for a small one where they do not."""
    weights_prefix: str | None = option(None, group="model and method", rare=True)
    """Beginning of the names in the weights file; needed where several networks in it fit."""
    crop_size: int | None = option(None, group="output", unit="pixels")
    """Side of the images of format onnx. Default: as the backbone was pretrained; where the weights do
    not say, 224."""
    overwrite: bool = option(False, group="output")
    """Replace an existing file, or for huggingface a folder that was exported before."""
    debug: bool = option(False, group="output", rare=True)
    """Show the traceback of a user's error."""

    def __post_init__(self) -> None:
        self._check_least(1, "crop_size")
        self._check_effect("format", crop_size=self.format != "onnx" and self.crop_size is not None)
        super().__post_init__()
