"""MoCo v2 (arXiv 1911.05722, 2003.04297)."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from sslortho.losses.gather import gather_parts
from sslortho.methods.options import MoCoV2Options, read_widths
from sslortho.methods.task import Method, compute_in_float32, spread
from sslortho.methods.teacher import MovingAverage
from sslortho.models.own_projectors import projector_width


class Queue(nn.Module):
    """Keys of earlier batches (number, dim), of length one; the oldest are replaced first.

    Args:
        number: of keys that are kept; random ones at first.
        dim: of each key.
    """

    bank: Tensor
    bank_ptr: Tensor

    def __init__(self, number: int, dim: int) -> None:
        super().__init__()
        # lightly's names, which older checkpoints have
        self.register_buffer("bank", normalize(torch.randn(number, dim), dim=-1))
        self.register_buffer("bank_ptr", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Replace the oldest keys by those (batch, dim) of all ranks.

        Keys beyond the end are dropped, and the next come first, as in lightly. The place stays on the
        device: reading it would make a GPU wait.
        """
        keys, number = gather_parts(keys), len(self.bank)
        end = self.bank_ptr + len(keys)
        keys = keys[:number].to(self.bank.dtype)
        rows = self.bank_ptr + torch.arange(len(keys), device=keys.device)
        inside, rows = (rows < number).unsqueeze(1), rows % number
        self.bank.index_copy_(0, rows, torch.where(inside, keys, self.bank[rows]))
        self.bank_ptr.copy_(torch.where(end >= number, 0, end))


class QueueLoss(nn.Module):
    """InfoNCE of queries with their keys against those of a queue (arXiv 1911.05722, eq. 1).

    `loss(query, key)` takes two batches of projections (batch, dim), returns a scalar, and puts the keys
    into the queue. On a CPU it is bit for bit lightly's NTXentLoss with a memory bank.

    Args:
        temperature: divisor of the cosines.
        number, dim: of the queue.
    """

    def __init__(self, temperature: float, number: int, dim: int) -> None:
        super().__init__()
        self.temperature = temperature
        self.memory_bank = Queue(number, dim)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        query, key = normalize(query, dim=1), normalize(key, dim=1)
        negatives = self.memory_bank.bank.clone().transpose(0, -1)
        if query.requires_grad:
            self.memory_bank.push(key.detach())
        positive = torch.einsum("nc,nc->n", query, key).unsqueeze(-1)
        negative = torch.einsum("nc,ck->nk", query, negatives)
        logits = torch.cat([positive, negative], dim=1) / self.temperature
        first = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        return cross_entropy(logits, first)


class MoCoV2(Method):
    """MoCo v2: tell the EMA teacher's key of the other view from the keys of earlier batches.

    Equation 1 of arXiv 1911.05722. The paper shuffles images among GPUs with separate batch norm
    statistics, since a query and a key that share statistics can recognise each other by them. Here the
    statistics are those of all ranks together: leave `sync_batch_norm` on, and use large batches.
    """

    Options = MoCoV2Options
    packages = ("lightly",)

    def __init__(
        self,
        backbone: nn.Module,
        dim: int,
        options: MoCoV2Options,
        projector: nn.Module | None = None,
    ) -> None:
        super().__init__(backbone, dim, options)
        from lightly.models.modules import MoCoProjectionHead

        if projector is None:
            hidden, output = read_widths(options.projector)
            projector = MoCoProjectionHead(dim, hidden, output)
        else:
            output = projector_width(projector, dim)
        self.projector = projector
        self.teacher = copy.deepcopy(nn.Sequential(self.backbone, self.projector))
        self.teacher.requires_grad_(False)
        self.loss = QueueLoss(options.temperature, options.queue, output)
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
