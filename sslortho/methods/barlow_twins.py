"""Barlow Twins (arXiv 2103.03230)."""

from torch import Tensor, nn

from sslortho.losses import BarlowTwinsLoss
from sslortho.methods.options import BarlowTwinsOptions, read_widths
from sslortho.methods.task import Method
from sslortho.models.heads import Projector


class BarlowTwins(Method):
    """Barlow Twins: decorrelate the projector's outputs, and make those of two views agree.

    Equation 1 of arXiv 2103.03230 on the cross-correlation of the two views' projections. Each view
    passes through the network on its own, with batch norm statistics of its own.
    """

    Options = BarlowTwinsOptions

    def __init__(
        self,
        backbone: nn.Module,
        dim: int,
        options: BarlowTwinsOptions,
        projector: nn.Module | None = None,
    ) -> None:
        super().__init__(backbone, dim, options)
        if projector is None:
            projector = Projector(dim, tuple(read_widths(options.projector)))
        self.projector = projector
        self.loss = BarlowTwinsLoss(options.lambda_param, gather_distributed=True)

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        z_a, z_b = (self.projector(self.backbone(view)) for view in views)
        invariance, redundancy = self.loss.terms(z_a, z_b)
        return {
            "loss": invariance + self.loss.lambda_param * redundancy,
            "invariance": invariance.detach(),
            "redundancy": redundancy.detach(),
        }
