"""DINO (arXiv 2104.14294)."""

import copy
import warnings
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from lightly.loss import DINOLoss
from lightly.models.modules import DINOProjectionHead
from lightly.models.utils import update_momentum
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from sslortho.augment.views import ViewSpec, barlow_twins
from sslortho.tasks.task import Method, read_widths, require, spread


@dataclass(frozen=True, kw_only=True)
class Options:
    """DINO."""

    projector: str = "512-128-1024"
    """Widths of the projector's two hidden layers, its bottleneck and its output. The paper's:
    2048-256-65536."""
    teacher_momentum: float = 0.99
    """Of the teacher's moving average at the start; it rises to 1 by a cosine. The paper's 0.996 is for
    100 epochs of ImageNet."""
    teacher_temperature: float = 0.04
    """Of the teacher's outputs; the paper lets it rise to 0.07 in longer trainings."""
    freeze_output_epochs: int = 1
    """Epochs at the start in which the output layer does not learn."""
    lr_biases: float = 0.05
    """Rate of biases and norms per 256 samples."""


def create_projector(dim: int, widths: list[int], freeze_epochs: int) -> DINOProjectionHead:
    """lightly's for convolutional networks, but for an output layer that can be copied."""
    hidden, bottleneck, output = widths
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch's older weight normalisation
        head = DINOProjectionHead(
            dim, hidden, bottleneck, output, batch_norm=True, freeze_last_layer=freeze_epochs
        )
    head.last_layer = weight_norm(nn.Linear(bottleneck, output, bias=False))
    length = head.last_layer.parametrizations.weight.original0
    length.requires_grad_(False).fill_(1)
    return head


class DINO(Method):
    """Every view shall be sorted as a moving average of the network sorts the two global ones.

    `backbone` is the moving average's, the teacher's: the paper evaluates that. The paper clips
    gradients, which neither LARS nor an orthonormal gradient needs.
    """

    Options = Options

    def __init__(self, backbone: nn.Module, dim: int, options: Options) -> None:
        super().__init__(backbone, dim, options)
        require(options, "teacher_momentum", 0 <= options.teacher_momentum <= 1, "from 0 to 1")
        require(options, "teacher_temperature", options.teacher_temperature > 0, "above 0")
        widths = read_widths(options.projector, "hidden layers", "bottleneck", "output")
        self.projector = create_projector(dim, widths, options.freeze_output_epochs)
        self.student = copy.deepcopy(nn.Sequential(backbone, self.projector))
        self.backbone.requires_grad_(False)
        self.projector.requires_grad_(False)
        self.loss = DINOLoss(widths[-1], teacher_temp=options.teacher_temperature)
        self.first_momentum = self.momentum = options.teacher_momentum
        self.epoch = 0

    @classmethod
    def views(cls, crop_size: int = 224) -> tuple[ViewSpec, ...]:
        """Section 3.2 with the numbers of facebookresearch/dino: two global views, six local ones."""
        first, second = (replace(view, crop_scale=(0.4, 1.0)) for view in barlow_twins(crop_size))
        local = replace(
            first, crop_size=round(crop_size * 96 / 224), crop_scale=(0.05, 0.4), blur_p=0.5
        )
        return first, second, *[local] * 6

    def before_step(self, step: int, epoch: int, total_steps: int) -> None:
        self.momentum = cosine_schedule(step, total_steps, self.first_momentum, 1)
        self.epoch = epoch

    def after_backward(self) -> None:
        self.student[1].cancel_last_layer_gradients(self.epoch)

    def after_step(self) -> None:
        update_momentum(self.student[0], self.backbone, self.momentum)
        update_momentum(self.student[1], self.projector, self.momentum)

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        outputs: list[Tensor] = []
        for _, sized in groupby(views, key=lambda view: view.shape[-1]):
            together = list(sized)  # as the paper's code: one pass for all views of a size
            outputs += self.student(torch.cat(together)).float().chunk(len(together))
        with torch.no_grad():
            targets = self.projector(self.backbone(torch.cat(views[:2]))).float().chunk(2)
        with torch.autocast(outputs[0].device.type, enabled=False):
            loss = self.loss(list(targets), outputs)
        return {"loss": loss, "spread": spread(outputs[0])}
