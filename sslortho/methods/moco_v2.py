"""MoCo v2 (arXiv 1911.05722, 2003.04297)."""

import copy
from dataclasses import dataclass

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import update_momentum
from torch import Tensor, nn

from sslortho.augment.views import ViewSpec
from sslortho.methods.task import Method, in_float32, read_widths, require, spread


@dataclass(frozen=True, kw_only=True)
class MoCoV2Options:
    """MoCo v2."""

    projector: str = "512-128"
    """Widths of the projector's hidden and output layer. The paper's, for ResNet-50: 2048-128."""
    temperature: float = 0.2
    """Of the similarities; the paper's."""
    teacher_momentum: float = 0.99
    """Of the moving average that makes the keys. The paper's 0.999 is for 200 epochs of ImageNet."""
    queue: int = 1024
    """Keys of earlier batches that are told apart from the present ones. The paper's: 65536."""
    lr_biases: float = 0.03
    """Rate of biases and norms per 256 samples; the paper's, of SGD."""


class MoCoV2(Method):
    """A view shall be nearer to the key of the other than to the keys of earlier batches.

    The paper shuffles images among GPUs of separate batch norm statistics, so that a query and its key
    do not share any, by which they would know each other. Here statistics are those of all ranks together:
    leave `sync_batch_norm` on, and give them large batches.
    """

    Options = MoCoV2Options

    @staticmethod
    def check(options: MoCoV2Options) -> None:
        require(options, "teacher_momentum", 0 <= options.teacher_momentum <= 1, "from 0 to 1")
        require(options, "queue", options.queue >= 1, "1 key or more")
        require(options, "temperature", options.temperature > 0, "above 0")
        read_widths(options.projector, "hidden layer", "output")

    def __init__(self, backbone: nn.Module, dim: int, options: MoCoV2Options) -> None:
        super().__init__(backbone, dim, options)
        hidden, output = read_widths(options.projector)
        self.projector = MoCoProjectionHead(dim, hidden, output)
        self.teacher = copy.deepcopy(nn.Sequential(self.backbone, self.projector))
        self.teacher.requires_grad_(False)
        self.loss = NTXentLoss(
            options.temperature, (options.queue, output), gather_distributed=True
        )
        bank = self.loss.memory_bank
        for name in ("bank", "bank_ptr"):  # lightly leaves them out of checkpoints
            bank.register_buffer(name, getattr(bank, name))
        self.momentum = options.teacher_momentum

    @classmethod
    def views(cls, crop_size: int = 224) -> tuple[ViewSpec, ...]:
        """arXiv 2003.04297, section 3, with the numbers of facebookresearch/moco."""
        view = ViewSpec(crop_size=crop_size, crop_scale=(0.2, 1.0), saturation=0.4, blur_p=0.5)
        return view, view

    def after_step(self) -> None:
        update_momentum(self.backbone, self.teacher[0], self.momentum)
        update_momentum(self.projector, self.teacher[1], self.momentum)

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        query = self.projector(self.backbone(views[0]))
        with torch.no_grad():
            key = self.teacher(views[1])
        return {"loss": in_float32(self.loss, query, key), "spread": spread(query)}
