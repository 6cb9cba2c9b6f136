"""VICReg (arXiv 2105.04906)."""

from torch import Tensor, nn

from sslortho.losses import VICRegLoss
from sslortho.methods.options import VICRegOptions, read_widths
from sslortho.methods.task import Method, spread


class VICReg(Method):
    """VICReg: make two views agree, keep the variance of each dimension up and covariances down.

    Equation 6 of arXiv 2105.04906, over the batch of all ranks.
    """

    Options = VICRegOptions
    packages = ("lightly",)

    def __init__(
        self,
        backbone: nn.Module,
        dim: int,
        options: VICRegOptions,
        projector: nn.Module | None = None,
    ) -> None:
        super().__init__(backbone, dim, options)
        from lightly.models.modules.heads import VICRegProjectionHead

        if projector is None:
            *hidden, output = read_widths(options.projector)
            projector = VICRegProjectionHead(dim, hidden[0], output, num_layers=len(hidden) + 1)
        self.projector = projector
        self.loss = VICRegLoss(
            options.invariance,
            options.variance,
            options.covariance,
            gather_distributed=True,
        )

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        z_a, z_b = (self.projector(self.backbone(view)) for view in views)
        return {"loss": self.loss(z_a, z_b), "spread": spread(z_a)}
