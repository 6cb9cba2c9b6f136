"""DINO (arXiv 2104.14294)."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from sslortho.losses.gather import gather_parts
from sslortho.methods.options import DINOOptions, read_widths
from sslortho.methods.task import Method, pass_views, spread
from sslortho.methods.teacher import MovingAverage, rising_momentum
from sslortho.optim.precision import in_float32


def create_dino_projector(
    dim: int, widths: Sequence[int], batch_norm: bool, freeze_epochs: int
) -> nn.Module:
    """Create DINO's projector (arXiv 2104.14294, section 3.1).

    It is lightly's, with torch's newer weight normalisation on the output layer, since a module with
    the older one cannot be deep-copied.

    Args:
        dim: number of features of the backbone.
        widths: output dimensions of the two hidden layers, the bottleneck and the output.
        batch_norm: put batch norm after the hidden layers. The paper has it for convolutional networks
            and not for transformers.
        freeze_epochs: epochs in which `cancel_last_layer_gradients` removes the output layer's gradients.

    Maps (batch, dim) to (batch, widths[2]). The rows of the output layer have length 1.
    """
    from lightly.models.modules import DINOProjectionHead

    hidden, bottleneck, output = widths
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the older weight normalisation
        head = DINOProjectionHead(dim, hidden, bottleneck, output, batch_norm, freeze_epochs)
    last: Any = weight_norm(nn.Linear(bottleneck, output, bias=False))
    last.parametrizations.weight.original0.requires_grad_(False).fill_(1)
    head.last_layer = last
    return head


class _Student(nn.Sequential):
    """Backbone and head: from views (batch, 3, height, width) to outputs (batch, dim), one for each.

    The backbone has one pass for each size of views, the head one for all, as in the paper's code
    (MultiCropWrapper of its utils.py): the head's batch norm sees all crops together.
    """

    def forward(self, views: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        backbone, head = self
        return head(torch.cat(pass_views(backbone, views))).chunk(len(views))


class DINO(Method):
    """DINO: match the EMA teacher's output distribution on the global views.

    Equation 3 of arXiv 2104.14294: the cross-entropy between the teacher's distribution of each of the
    two global views and the student's of every other view. `backbone` is the teacher's, which the paper
    evaluates. Gradients are not clipped, unlike in the paper's code.
    """

    Options = DINOOptions
    packages = ("lightly",)

    @staticmethod
    def takes(views: int) -> bool:
        return views >= 2

    def __init__(self, backbone: nn.Module, dim: int, options: DINOOptions) -> None:
        super().__init__(backbone, dim, options)
        from lightly.loss import DINOLoss

        widths = read_widths(options.projector)
        norms = any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
        self.projector = create_dino_projector(dim, widths, norms, options.freeze_output_epochs)
        self.student = copy.deepcopy(_Student(backbone, self.projector))
        self.backbone.requires_grad_(False)
        self.projector.requires_grad_(False)
        self.loss = DINOLoss(widths[-1], teacher_temp=options.teacher_temperature)
        self.average = MovingAverage()
        self.first_momentum = self.momentum = options.teacher_momentum
        self.epoch = 0

    def before_step(self, step: int, epoch: int, total_steps: int) -> None:
        self.momentum = rising_momentum(step, total_steps, self.first_momentum)
        self.epoch = epoch

    def after_backward(self) -> None:
        head: Any = self.student[1]
        head.cancel_last_layer_gradients(self.epoch)

    def after_step(self) -> None:
        teacher = (self.backbone, self.projector)
        self.average.update(tuple(self.student), teacher, self.momentum)

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        outputs = self.student(views)
        with torch.no_grad():
            targets = self.projector(torch.cat(pass_views(self.backbone, views[:2]))).chunk(2)
        with torch.autocast(outputs[0].device.type, enabled=False):
            entropies = self._teacher_entropies(in_float32(targets[0]))
            loss = self.loss([in_float32(t) for t in targets], [in_float32(z) for z in outputs])
        return {"loss": loss, "spread": spread(outputs[0]), **entropies}

    @torch.no_grad()
    def _teacher_entropies(self, target: Tensor) -> dict[str, Tensor]:
        """Entropy in nats of the teacher's distributions (batch, dim), and of their mean over all ranks.

        Where both are the same, all images have one distribution: without centring it is a point, with
        entropy 0, without sharpening uniform, with entropy log(dim) (arXiv 2104.14294, section 5.3).
        """
        loss: Any = self.loss
        p = ((target - loss.center.squeeze(0)) / loss.teacher_temp).softmax(dim=1)
        mean = gather_parts(p.mean(dim=0, keepdim=True)).mean(dim=0)
        return {
            "teacher_entropy": torch.special.entr(p).sum(dim=1).mean(),
            "teacher_mean_entropy": torch.special.entr(mean).sum(),
        }
