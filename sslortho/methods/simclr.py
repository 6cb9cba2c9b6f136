"""SimCLR (arXiv 2002.05709)."""

from dataclasses import replace

from torch import Tensor, nn

from sslortho.augment.views import ViewSpec
from sslortho.methods.options import SimCLROptions, read_widths
from sslortho.methods.task import Method, in_float32, spread


class SimCLR(Method):
    """SimCLR: tell the other view of the same image from all other views of the batch.

    The NT-Xent loss, equation 1 of arXiv 2002.05709, over the batch of all ranks.
    """

    Options = SimCLROptions
    packages = ("lightly",)

    def __init__(self, backbone: nn.Module, dim: int, options: SimCLROptions) -> None:
        super().__init__(backbone, dim, options)
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead

        hidden, output = read_widths(options.projector)
        self.projector = SimCLRProjectionHead(dim, hidden, output)
        self.loss = NTXentLoss(options.temperature, gather_distributed=True)

    @classmethod
    def views(cls, crop_size: int = 224) -> tuple[ViewSpec, ...]:
        """Views of appendix A, with a colour strength of 1."""
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
        """Views of appendix B.9, for CIFAR-10, with a colour strength of 0.5 and no blur."""
        half = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
        return tuple(replace(view, **half) for view in super().small_views(crop_size))

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        z_a, z_b = (self.projector(self.backbone(view)) for view in views)
        return {"loss": in_float32(self.loss, z_a, z_b), "spread": spread(z_a)}
