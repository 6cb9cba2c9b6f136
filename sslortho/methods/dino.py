"""DINO (arXiv 2104.14294)."""

import copy
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from lightly.loss import DINOLoss
from lightly.models.utils import update_momentum
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor, nn

from sslortho.augment.views import ViewSpec, barlow_twins
from sslortho.models.dino_projector import create_dino_projector
from sslortho.methods.task import Method, read_widths, require, spread


@dataclass(frozen=True, kw_only=True)
class DINOOptions:
    """DINO."""

    projector: str = "512-128-1024"
    """Widths of two hidden layers, the bottleneck and the output. The paper's: 2048-256-65536."""
    teacher_momentum: float = 0.99
    """Of the teacher's moving average at the start; it rises to 1 by a cosine. The paper's: 0.996."""
    teacher_temperature: float = 0.04
    """Of the teacher's outputs; the paper lets it rise to 0.07 in longer trainings."""
    freeze_output_epochs: int = 1
    """Epochs at the start in which the output layer does not learn."""
    lr_biases: float = 0.05
    """Rate of biases and norms per 256 samples."""


class DINO(Method):
    """Every view shall be sorted as a moving average of the network sorts the two global ones.

    `backbone` is that of the average, the teacher, which the paper evaluates. Gradients are not clipped.
    """

    Options = DINOOptions

    @staticmethod
    def check(options: DINOOptions) -> None:
        require(options, "teacher_momentum", 0 <= options.teacher_momentum <= 1, "from 0 to 1")
        require(options, "teacher_temperature", options.teacher_temperature > 0, "above 0")
        require(options, "freeze_output_epochs", options.freeze_output_epochs >= 0, "0 or more")
        read_widths(options.projector, "hidden layers", "bottleneck", "output")

    @staticmethod
    def takes(views: int) -> bool:
        return views >= 2

    def __init__(self, backbone: nn.Module, dim: int, options: DINOOptions) -> None:
        super().__init__(backbone, dim, options)
        widths = read_widths(options.projector)
        norms = any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
        self.projector = create_dino_projector(dim, widths, norms, options.freeze_output_epochs)
        self.student = copy.deepcopy(nn.Sequential(backbone, self.projector))
        self.backbone.requires_grad_(False)
        self.projector.requires_grad_(False)
        self.loss = DINOLoss(widths[-1], teacher_temp=options.teacher_temperature)
        self.first_momentum = self.momentum = options.teacher_momentum
        self.epoch = 0

    @classmethod
    def views(cls, crop_size: int = 224) -> tuple[ViewSpec, ...]:
        """Two global views and six local ones, as lightly has them; facebookresearch/dino takes eight."""
        first, second = (replace(view, crop_scale=(0.4, 1.0)) for view in barlow_twins(crop_size))
        local = replace(
            first, crop_size=round(crop_size * 96 / 224), crop_scale=(0.05, 0.4), blur_p=0.5
        )
        return first, second, *[local] * 6

    def before_step(self, step: int, epoch: int, total_steps: int) -> None:
        self.momentum = cosine_schedule(step, total_steps, self.first_momentum, 1)
        self.epoch = epoch

    def after_backward(self) -> None:
        head: Any = self.student[1]
        head.cancel_last_layer_gradients(self.epoch)

    def after_step(self) -> None:
        update_momentum(self.student[0], self.backbone, self.momentum)
        update_momentum(self.student[1], self.projector, self.momentum)

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        # as the paper's code: one pass for all views of a size
        sizes = [list(sized) for _, sized in groupby(views, key=lambda view: view.shape[-1])]
        outputs = [z for size in sizes for z in self.student(torch.cat(size)).chunk(len(size))]
        with torch.no_grad():
            targets = self.projector(self.backbone(torch.cat(views[:2]))).chunk(2)
        with torch.autocast(outputs[0].device.type, enabled=False):
            loss = self.loss([t.float() for t in targets], [z.float() for z in outputs])
        return {"loss": loss, "spread": spread(outputs[0])}
