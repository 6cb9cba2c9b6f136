"""BYOL (arXiv 2006.07733)."""

import copy
from dataclasses import dataclass

import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import update_momentum
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor, nn

from sslortho.augment.views import ViewSpec, barlow_twins
from sslortho.methods.task import Method, in_float32, read_widths, require, spread


@dataclass(frozen=True, kw_only=True)
class BYOLOptions:
    """BYOL."""

    projector: str = "512-128"
    """Widths of the hidden and the output layer of projector and predictor. The paper's, for
    ResNet-50: 4096-256."""
    teacher_momentum: float = 0.996
    """Of the teacher's moving average at the start; it rises to 1 by a cosine (section 3.3). 0.996 is
    for 1,000 epochs of ImageNet; the paper takes 0.99 for 300."""
    lr_biases: float = 0.2
    """Rate of biases and norms per 256 samples; the paper's, for ImageNet, whose loss is four times ours."""
    weight_decay: float = 1.5e-6
    """Decay of the weights; biases and norms have none. The paper's."""


class BYOL(Method):
    """A predictor on one view shall say what a moving average of the network makes of the other."""

    Options = BYOLOptions

    @staticmethod
    def check(options: BYOLOptions) -> None:
        require(options, "teacher_momentum", 0 <= options.teacher_momentum <= 1, "from 0 to 1")
        read_widths(options.projector, "hidden layer", "output")

    def __init__(self, backbone: nn.Module, dim: int, options: BYOLOptions) -> None:
        super().__init__(backbone, dim, options)
        hidden, output = read_widths(options.projector)
        self.projector = BYOLProjectionHead(dim, hidden, output)
        self.predictor = BYOLPredictionHead(output, hidden, output)
        self.teacher = copy.deepcopy(nn.Sequential(self.backbone, self.projector))
        self.teacher.requires_grad_(False)
        self.loss = NegativeCosineSimilarity()
        self.first_momentum = self.momentum = options.teacher_momentum

    @classmethod
    def views(cls, crop_size: int = 224) -> tuple[ViewSpec, ...]:
        """Appendix B, which Barlow Twins took over."""
        return barlow_twins(crop_size)

    def before_step(self, step: int, epoch: int, total_steps: int) -> None:
        self.momentum = cosine_schedule(step, total_steps, self.first_momentum, 1)

    def after_step(self) -> None:
        update_momentum(self.backbone, self.teacher[0], self.momentum)
        update_momentum(self.projector, self.teacher[1], self.momentum)

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        z_a, z_b = (self.projector(self.backbone(view)) for view in views)
        with torch.no_grad():
            target_a, target_b = (self.teacher(view) for view in views)
        loss_a = in_float32(self.loss, self.predictor(z_a), target_b)
        loss_b = in_float32(self.loss, self.predictor(z_b), target_a)
        return {"loss": (loss_a + loss_b) / 2, "spread": spread(z_a)}
