"""NT-Xent, the loss of SimCLR."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from sslortho.losses.gather import gather_parts, own_rank
from sslortho.losses.inputs import check_pair, check_positive, widen
from sslortho.losses.off_diagonal import off_diagonal


class NTXentLoss(nn.Module):
    """NT-Xent (arXiv 2002.05709, eq. 1), on a CPU bit for bit that of lightly's class.

    `loss(z_a, z_b)` takes two batches of projections (batch, dim) and returns a scalar. Each view is to
    be told from all other views by the cosine of their angle.

    lightly's class makes its mask on the CPU where there are several ranks (1.6), which fails on GPUs,
    and waits for the GPU in each step; this one does neither.

    Args:
        temperature: divisor of the cosines.
        gather_distributed: whether the other views are those of all ranks. Then gradients averaged over
            ranks are those of one rank with the whole batch; every rank must bring as many samples.

    Computed in float32 (float64 for float64 input) with autocast off.

    Raises ValueError for a temperature that is not above 0 and finite; when called, for two batches that are
    not (batch, dim) of one shape, integers or complex numbers, different devices, the meta device, or a
    batch of one.
    """

    def __init__(self, temperature: float = 0.5, gather_distributed: bool = False) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.temperature = temperature
        self.gather_distributed = gather_distributed

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Scalar loss of two batches of projections (batch, dim); row i of both is from one image."""
        check_pair(z_a, z_b)
        with torch.autocast(z_a.device.type, enabled=False):
            z_a = widen(z_a)
            return self._compare(normalize(z_a, dim=1), normalize(z_b.to(z_a.dtype), dim=1))

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        """The loss of projections (batch, dim) of length 1."""
        all_a, all_b, start = a, b, 0
        if self.gather_distributed:
            all_a, all_b, start = gather_parts(a), gather_parts(b), own_rank() * len(a)
        if len(all_a) < 2:
            raise ValueError(
                f"a batch of {len(all_a)} has no other image to tell from; give at least 2 samples"
            )

        def similarities(one: Tensor, other: Tensor) -> Tensor:
            return torch.einsum("nc,mc->nm", one, other) / self.temperature

        # in the order in which lightly makes them: autograd sums their gradients in this order
        aa, ab = similarities(a, all_a), similarities(a, all_b)
        ba, bb = similarities(b, all_a), similarities(b, all_b)
        aa, bb = off_diagonal(aa, start), off_diagonal(bb, start)
        of_a, of_b = torch.cat([ab, aa], dim=1), torch.cat([ba, bb], dim=1)
        partners = torch.arange(start, start + len(a), device=a.device)
        return cross_entropy(torch.cat([of_a, of_b]), partners.repeat(2))
