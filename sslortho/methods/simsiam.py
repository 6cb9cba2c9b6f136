"""SimSiam (arXiv 2011.10566)."""

from dataclasses import dataclass

from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead
from torch import Tensor, nn

from sslortho.augment.views import ViewSpec
from sslortho.methods.task import Method, in_float32, read_widths, require, spread


@dataclass(frozen=True, kw_only=True)
class SimSiamOptions:
    """SimSiam."""

    projector: str = "512-512-512"
    """Widths of the projector's three layers, all the same. The paper's, for ResNet-50: 2048-2048-2048;
    the predictor's hidden layer has a quarter of it."""
    lr_biases: float = 0.05
    """Rate of biases and norms per 256 samples; the paper's, of SGD."""


class SimSiam(Method):
    """A predictor on one view shall say what the network makes of the other, which is not followed.

    The predictor's rate follows the schedule as all do; the paper keeps it constant, for 0.4 of a point
    (its table 1).
    """

    Options = SimSiamOptions

    @staticmethod
    def check(options: SimSiamOptions) -> None:
        widths = read_widths(options.projector, "first layer", "second layer", "output")
        equal = len(set(widths)) == 1 and widths[0] >= 4
        require(options, "projector", equal, "three widths that are equal, 4 or more")

    def __init__(self, backbone: nn.Module, dim: int, options: SimSiamOptions) -> None:
        super().__init__(backbone, dim, options)
        width = read_widths(options.projector)[0]
        self.projector = SimSiamProjectionHead(dim, width, width)
        self.predictor = SimSiamPredictionHead(width, width // 4, width)
        self.loss = NegativeCosineSimilarity()

    @classmethod
    def views(cls, crop_size: int = 224) -> tuple[ViewSpec, ...]:
        """Appendix A: those of MoCo v2."""
        view = ViewSpec(crop_size=crop_size, crop_scale=(0.2, 1.0), saturation=0.4, blur_p=0.5)
        return view, view

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        z_a, z_b = (self.projector(self.backbone(view)) for view in views)
        loss_a = in_float32(self.loss, self.predictor(z_a), z_b.detach())
        loss_b = in_float32(self.loss, self.predictor(z_b), z_a.detach())
        return {"loss": (loss_a + loss_b) / 2, "spread": spread(z_a)}
