"""Barlow Twins (arXiv 2103.03230)."""

from torch import Tensor, nn

from sslortho.losses import BarlowTwinsLoss
from sslortho.tasks.task import Task


class BarlowTwins(Task):
    """Two views through backbone and projector, and the cross-correlation loss of the two.

    The views pass one after the other, so each has its own batch-norm statistics.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, loss: BarlowTwinsLoss) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector
        self.loss = loss

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        z_a, z_b = (self.projector(self.backbone(view)) for view in views)
        invariance, redundancy = self.loss.terms(z_a, z_b)
        return {
            "loss": invariance + self.loss.lambda_param * redundancy,
            "invariance": invariance.detach(),
            "redundancy": redundancy.detach(),
        }
