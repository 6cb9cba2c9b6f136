"""SimCLR (arXiv 2002.05709)."""

from torch import Tensor, nn

from sslortho.losses import NTXentLoss
from sslortho.methods.options import SimCLROptions, read_widths
from sslortho.methods.task import Method, spread


class SimCLR(Method):
    """SimCLR: tell the other view of the same image from all other views of the batch.

    The NT-Xent loss, equation 1 of arXiv 2002.05709, over the batch of all ranks.
    """

    Options = SimCLROptions
    packages = ("lightly",)

    def __init__(
        self,
        backbone: nn.Module,
        dim: int,
        options: SimCLROptions,
        projector: nn.Module | None = None,
    ) -> None:
        super().__init__(backbone, dim, options)
        from lightly.models.modules import SimCLRProjectionHead

        if projector is None:
            hidden, output = read_widths(options.projector)
            projector = SimCLRProjectionHead(dim, hidden, output)
        self.projector = projector
        self.loss = NTXentLoss(options.temperature, gather_distributed=True)

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        z_a, z_b = (self.projector(self.backbone(view)) for view in views)
        return {"loss": self.loss(z_a, z_b), "spread": spread(z_a)}
