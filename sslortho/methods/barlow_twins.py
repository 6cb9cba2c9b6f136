"""Barlow Twins (arXiv 2103.03230)."""

from dataclasses import dataclass

from torch import Tensor, nn

from sslortho.augment.views import ViewSpec, barlow_twins
from sslortho.losses import BarlowTwinsLoss
from sslortho.models import Projector
from sslortho.methods.task import Method, read_widths, require


@dataclass(frozen=True, kw_only=True)
class BarlowTwinsOptions:
    """Barlow Twins."""

    projector: str = "512-512-512"
    """Widths of the projector's layers. The paper's, for ResNet-50: 8192-8192-8192."""
    lambda_param: float = 0.0051
    """Weight of the redundancy term; 0.0051 as in facebookresearch/barlowtwins."""


class BarlowTwins(Method):
    """Two views through backbone and projector, and the cross-correlation loss of the two.

    The views pass one after the other, so each has its own batch-norm statistics.
    """

    Options = BarlowTwinsOptions

    @staticmethod
    def check(options: BarlowTwinsOptions) -> None:
        read_widths(options.projector)
        require(options, "lambda_param", options.lambda_param >= 0, "0 or more")

    def __init__(self, backbone: nn.Module, dim: int, options: BarlowTwinsOptions) -> None:
        super().__init__(backbone, dim, options)
        self.projector = Projector(dim, tuple(read_widths(options.projector)))
        self.loss = BarlowTwinsLoss(options.lambda_param, gather_distributed=True)

    @classmethod
    def views(cls, crop_size: int = 224) -> tuple[ViewSpec, ...]:
        return barlow_twins(crop_size)

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        z_a, z_b = (self.projector(self.backbone(view)) for view in views)
        invariance, redundancy = self.loss.terms(z_a, z_b)
        return {
            "loss": invariance + self.loss.lambda_param * redundancy,
            "invariance": invariance.detach(),
            "redundancy": redundancy.detach(),
        }
