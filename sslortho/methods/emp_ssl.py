"""EMP-SSL (arXiv 2304.03977)."""

import torch
from torch import Tensor, nn

from sslortho.losses import EMPSSLLoss
from sslortho.methods.options import EMPSSLOptions, read_widths
from sslortho.methods.task import Method, pass_views, spread
from sslortho.models.heads import Projector


class EMPSSL(Method):
    """EMP-SSL: draw many crops of an image to their mean, and spread the images of a batch.

    The objective of arXiv 2304.03977, section 3, with the coding rate over the batch of all ranks. All
    crops pass through the network together. The paper evaluates the mean of features over many crops
    (`knn_eval --crops`), and takes them from the first hidden layer of the projector, not the backbone.
    """

    Options = EMPSSLOptions

    @staticmethod
    def takes(views: int) -> bool:
        return views >= 2

    def __init__(
        self,
        backbone: nn.Module,
        dim: int,
        options: EMPSSLOptions,
        projector: nn.Module | None = None,
    ) -> None:
        super().__init__(backbone, dim, options)
        if projector is None:
            projector = Projector(dim, tuple(read_widths(options.projector)), bias=True)
        self.projector = projector
        self.loss = EMPSSLLoss(
            options.similarity, options.coding_rate, options.eps, gather_distributed=True
        )

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        outputs = pass_views(lambda images: self.projector(self.backbone(images)), views)
        cosine, rate = self.loss.terms(torch.stack(outputs))
        return {
            "loss": -self.loss.similarity * cosine - self.loss.coding_rate * rate,
            "cosine": cosine.detach(),
            "coding_rate": rate.detach(),
            "spread": spread(outputs[0]),
        }
