"""MoCo v2 (arXiv 1911.05722, 2003.04297)."""

import copy

import torch
from torch import Tensor, nn

from sslortho.methods.options import MoCoV2Options, read_widths
from sslortho.methods.task import Method, compute_in_float32, spread
from sslortho.methods.teacher import MovingAverage


class MoCoV2(Method):
    """MoCo v2: tell the EMA teacher's key of the other view from the keys of earlier batches.

    Equation 1 of arXiv 1911.05722. The paper shuffles images among GPUs with separate batch norm
    statistics, since a query and a key that share statistics can recognise each other by them. Here the
    statistics are those of all ranks together: leave `sync_batch_norm` on, and use large batches.
    """

    Options = MoCoV2Options
    packages = ("lightly",)

    def __init__(self, backbone: nn.Module, dim: int, options: MoCoV2Options) -> None:
        super().__init__(backbone, dim, options)
        from lightly.loss import NTXentLoss
        from lightly.models.modules import MoCoProjectionHead

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
        self.average = MovingAverage()
        self.momentum = options.teacher_momentum

    def after_step(self) -> None:
        student = (self.backbone, self.projector)
        self.average.update(student, tuple(self.teacher), self.momentum)

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        query = self.projector(self.backbone(views[0]))
        with torch.no_grad():
            key = self.teacher(views[1])
        return {"loss": compute_in_float32(self.loss, query, key), "spread": spread(query)}
