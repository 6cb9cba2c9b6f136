"""LeJEPA (arXiv 2511.08544)."""

from itertools import takewhile

import torch
from torch import Tensor, nn

from sslortho.losses import LeJEPALoss, draw_slices
from sslortho.methods.options import LeJEPAOptions, read_widths
from sslortho.methods.task import Method, pass_views, spread
from sslortho.models.heads import Projector
from sslortho.models.own_projectors import projector_width


class LeJEPA(Method):
    """LeJEPA: draw all views to the centre of the global ones, and projections to a standard Gaussian.

    Algorithm 2 of arXiv 2511.08544, with SIGReg over the batch of all ranks. Global views are the first
    ones, as far as they are of one size; there may be any number of both kinds. For networks that are no
    transformers the paper has global views alone. There is no teacher and no stop-gradient.

    The directions of a training step depend on its number alone; evaluations have those of step 0.
    """

    Options = LeJEPAOptions

    @staticmethod
    def takes(views: int) -> bool:
        return views >= 2

    def __init__(
        self,
        backbone: nn.Module,
        dim: int,
        options: LeJEPAOptions,
        projector: nn.Module | None = None,
    ) -> None:
        super().__init__(backbone, dim, options)
        if projector is None:
            widths = tuple(read_widths(options.projector))
            projector, self.width = Projector(dim, widths, bias=True), widths[-1]
        else:
            self.width = projector_width(projector, dim)
        self.projector = projector
        self.number = options.slices
        self.slices: Tensor | None = None
        self.loss = LeJEPALoss(options.lambda_param, gather_distributed=True)

    def before_step(self, step: int, epoch: int, total_steps: int) -> None:
        device = next(self.parameters()).device
        self.slices = draw_slices(step, self.width, self.number, device)

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        outputs = pass_views(lambda images: self.projector(self.backbone(images)), views)
        z = torch.stack(outputs)
        slices = self.slices if self.training else None
        if slices is None:
            slices = draw_slices(0, self.width, self.number, z.device)
        large = len(list(takewhile(lambda view: view.shape == views[0].shape, views)))
        distance, sigreg = self.loss.terms(z, slices, large)
        share = self.loss.lambda_param
        return {
            "loss": (1 - share) * distance + share * sigreg,
            "distance": distance.detach(),
            "sigreg": sigreg.detach(),
            "spread": spread(outputs[0]),
        }
