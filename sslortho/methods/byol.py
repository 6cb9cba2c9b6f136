"""BYOL (arXiv 2006.07733)."""

import copy

import torch
from torch import Tensor, nn

from sslortho.methods.options import BYOLOptions, read_widths
from sslortho.methods.task import Method, compute_in_float32, spread
from sslortho.methods.teacher import MovingAverage, rising_momentum
from sslortho.models.own_projectors import projector_width


class BYOL(Method):
    """BYOL: predict the EMA teacher's projection of the other view.

    Equation 2 of arXiv 2006.07733, both ways; the loss is the negative cosine similarity, without the
    paper's factor and constant, and averaged over the two ways.
    """

    Options = BYOLOptions
    packages = ("lightly",)

    def __init__(
        self,
        backbone: nn.Module,
        dim: int,
        options: BYOLOptions,
        projector: nn.Module | None = None,
    ) -> None:
        super().__init__(backbone, dim, options)
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead

        if projector is None:
            hidden, output = read_widths(options.projector)
            projector = BYOLProjectionHead(dim, hidden, output)
        else:
            output = projector_width(projector, dim)
            hidden = 4 * output  # as 512-128, the default, has it
        self.projector = projector
        self.predictor = BYOLPredictionHead(output, hidden, output)
        self.teacher = copy.deepcopy(nn.Sequential(self.backbone, self.projector))
        self.teacher.requires_grad_(False)
        self.average = MovingAverage()
        self.loss = NegativeCosineSimilarity()
        self.first_momentum = self.momentum = options.teacher_momentum

    def before_step(self, step: int, epoch: int, total_steps: int) -> None:
        self.momentum = rising_momentum(step, total_steps, self.first_momentum)

    def after_step(self) -> None:
        student = (self.backbone, self.projector)
        self.average.update(student, tuple(self.teacher), self.momentum)

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        z_a, z_b = (self.projector(self.backbone(view)) for view in views)
        with torch.no_grad():
            target_a, target_b = (self.teacher(view) for view in views)
        loss_a = compute_in_float32(self.loss, self.predictor(z_a), target_b)
        loss_b = compute_in_float32(self.loss, self.predictor(z_b), target_a)
        return {"loss": (loss_a + loss_b) / 2, "spread": spread(z_a)}
