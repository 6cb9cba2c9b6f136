"""SimSiam (arXiv 2011.10566)."""

from torch import Tensor, nn

from sslortho.methods.options import SimSiamOptions, read_widths
from sslortho.methods.task import Method, compute_in_float32, spread
from sslortho.models.own_projectors import projector_width


class SimSiam(Method):
    """SimSiam: predict the network's own projection of the other view, with the gradient stopped there.

    Equation 4 of arXiv 2011.10566. The predictor's learning rate follows the schedule like all others;
    the paper keeps it constant, which gains 0.4 of a point (its table 1).
    """

    Options = SimSiamOptions
    packages = ("lightly",)

    def __init__(
        self,
        backbone: nn.Module,
        dim: int,
        options: SimSiamOptions,
        projector: nn.Module | None = None,
    ) -> None:
        super().__init__(backbone, dim, options)
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead

        if projector is None:
            width = read_widths(options.projector)[0]
            projector = SimSiamProjectionHead(dim, width, width)
        else:
            width = projector_width(projector, dim)
        self.projector = projector
        self.predictor = SimSiamPredictionHead(width, max(1, width // 4), width)
        self.loss = NegativeCosineSimilarity()

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        z_a, z_b = (self.projector(self.backbone(view)) for view in views)
        loss_a = compute_in_float32(self.loss, self.predictor(z_a), z_b.detach())
        loss_b = compute_in_float32(self.loss, self.predictor(z_b), z_a.detach())
        return {"loss": (loss_a + loss_b) / 2, "spread": spread(z_a)}
