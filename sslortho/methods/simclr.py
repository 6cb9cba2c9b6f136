"""SimCLR (arXiv 2002.05709)."""

from dataclasses import dataclass, replace

from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor, nn

from sslortho.augment.views import ViewSpec
from sslortho.methods.task import Method, in_float32, read_widths, require, spread


@dataclass(frozen=True, kw_only=True)
class SimCLROptions:
    """SimCLR."""

    projector: str = "512-128"
    """Widths of the projector's hidden and output layer. The paper's, for ResNet-50: 2048-128."""
    temperature: float = 0.5
    """Of the similarities; 0.5 as in the paper for CIFAR-10, 0.1 for 100 epochs of ImageNet."""
    lr_biases: float = 0.3
    """Rate of biases and norms per 256 samples; the paper's, for ImageNet (section 2.2), whose loss is
    twice lightly's."""


class SimCLR(Method):
    """Two views of an image shall be nearer to each other than to all other views of the batch."""

    Options = SimCLROptions

    @staticmethod
    def check(options: SimCLROptions) -> None:
        read_widths(options.projector, "hidden layer", "output")
        require(options, "temperature", options.temperature > 0, "above 0")

    def __init__(self, backbone: nn.Module, dim: int, options: SimCLROptions) -> None:
        super().__init__(backbone, dim, options)
        hidden, output = read_widths(options.projector)
        self.projector = SimCLRProjectionHead(dim, hidden, output)
        self.loss = NTXentLoss(options.temperature, gather_distributed=True)

    @classmethod
    def views(cls, crop_size: int = 224) -> tuple[ViewSpec, ...]:
        """Appendix A; strength 1."""
        view = ViewSpec(
            crop_size=crop_size,
            brightness=0.8,
            contrast=0.8,
            saturation=0.8,
            hue=0.2,
            blur_p=0.5,
        )
        return view, view

    @classmethod
    def small_views(cls, crop_size: int = 32) -> tuple[ViewSpec, ...]:
        """Appendix B.9, for CIFAR-10: strength 0.5, no blur."""
        half = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
        return tuple(replace(view, **half) for view in super().small_views(crop_size))

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        z_a, z_b = (self.projector(self.backbone(view)) for view in views)
        return {"loss": in_float32(self.loss, z_a, z_b), "spread": spread(z_a)}
