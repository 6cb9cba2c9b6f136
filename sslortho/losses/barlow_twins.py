"""The Barlow Twins loss (arXiv 2103.03230, equations 1 and 2)."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sslortho.losses.gather import gather_batch
from sslortho.losses.inputs import check_pair, check_weight, widen
from sslortho.options import nearest

EPS = 1e-5
"""Added to the variance: the eps of the batch normalisation in facebookresearch/barlowtwins."""

FORMS = ("auto", "correlation", "gram")
"""Forms of `BarlowTwinsLoss`."""


SMALL_BATCH = 16
"""Largest batch that is computed in float64. There the (batch, batch) products cost nothing, and the
gradient is a small difference of large numbers: at a batch of 2 by a factor variance / eps."""


def standardise(z: Tensor) -> Tensor:
    """Shift and scale (batch, dim) to mean 0 and biased variance 1 in each dimension, as batch norm.

    The mean is subtracted twice, which leaves nothing of a rounded mean that is large beside the
    spread. A variance beyond the largest number of the dtype gives nan, never a plausible number.
    """
    if len(z) == 2:
        return _standardise_pair(z)
    # no gradient passes through the first shift: it cancels in the second
    shifted = z - z.detach().mean(dim=0)
    centred = shifted - shifted.mean(dim=0)
    variance = centred.square().mean(dim=0)
    scale = torch.where(variance < torch.inf, (variance + EPS).rsqrt(), torch.nan)
    return centred * scale


def _standardise_pair(z: Tensor) -> Tensor:
    """`standardise` for (2, dim), with a derivative that is not a difference of large numbers.

    Let d be half the difference of the rows: they become q and -q, with q = d / sqrt(d^2 + eps). Where
    d^2 is more than eps, q is computed as sign(d) sqrt(1 - eps / (d^2 + eps)), whose derivative has no
    subtraction. Differentiating the quotient would subtract two terms that agree in all their digits.
    """
    d = z[0] / 2 - z[1] / 2
    far = d.abs() > EPS**0.5
    # each branch sees only numbers at which it is smooth, since where() multiplies nan by zero
    near = torch.where(far, 0.0, d)
    ratio = EPS**0.5 / torch.where(far, d, 1.0)
    remainder = ratio.square() / (1 + ratio.square())
    q = torch.where(far, d.sign() * (1 - remainder).sqrt(), near * (near.square() + EPS).rsqrt())
    q = torch.where(d.abs() < torch.inf, q, torch.nan)
    return torch.stack([q, -q])


def correlation_terms(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of (C_ii - 1)^2 and of C_ij^2 for i != j, where C = a^T b / batch is formed.

    The literal reference (arXiv 2103.03230, equations 1 and 2) in batch * dim^2 multiplications.

    Args:
        a, b: standardised, (batch, dim).
    """
    c = a.mT @ b / a.shape[0]
    diagonal = c.diagonal()
    off_diagonal = c - torch.diag(diagonal)
    return (diagonal - 1).square().sum(), off_diagonal.square().sum()


def gram_terms(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of `correlation_terms` without C, in batch^2 * dim multiplications.

    ||a^T b||_F^2 = trace(a a^T b b^T) = <a a^T, b b^T>, and the diagonal of C is elementwise.
    """
    n = a.shape[0]
    diagonal = (a * b).mean(dim=0)
    total = ((a @ a.mT) * (b @ b.mT)).sum() / n**2
    return (diagonal - 1).square().sum(), total - diagonal.square().sum()


class BarlowTwinsLoss(nn.Module):
    """The Barlow Twins loss (arXiv 2103.03230, eq. 1); a drop-in for lightly's class of the same name.

    `loss(z_a, z_b)` takes two batches of projections (batch, dim) and returns a scalar.

    Args:
        lambda_param: weight of the off-diagonal terms (redundancy reduction).
        gather_distributed: False for the loss of this rank's batch. True for the loss of all ranks'
            batches together, statistics included. Then parameter gradients averaged over ranks (as
            DistributedDataParallel does) equal those of one rank with the whole batch; every rank
            must bring the same number of samples. lightly's True averages the correlations of batches
            that each rank has standardised by itself, so there the loss depends on the number of
            ranks. The two agree where all ranks have the same means and variances.
        form: "correlation" forms the (dim, dim) matrix, "gram" two (batch, batch) matrices; the value
            is the same. "auto" takes the cheaper by shape.

    Variance is biased and eps is 1e-5, as in lightly. Computed in float32 (float64 for float64 input)
    with autocast off; lightly follows autocast and half-precision input. Batches of up to 16 samples
    are computed in float64, and the result is rounded. Against 60 digits, value and gradient are right
    to 1e-6 of their size in float32, and to 2e-14 in float64: for scales from 1e-6 to 1e9, for means of
    a million times the spread, for constant dimensions and for a batch of 2. facebookresearch's batch
    norm is off by 4e-2 (float32) at such means; at a batch of 2 its gradient is rounding noise.

    Raises:
        ValueError: an unknown form, a negative or infinite weight, or gather_distributed in a torch
            without torch.distributed; when called, as `terms`.
    """

    def __init__(
        self,
        lambda_param: float = 5e-3,
        gather_distributed: bool = False,
        form: str = "auto",
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(
                f"form={form!r} is not one of {', '.join(FORMS)}{nearest(form, FORMS)}"
            )
        check_weight("lambda_param", lambda_param)
        if gather_distributed and not dist.is_available():
            raise ValueError(
                "gather_distributed=True needs torch.distributed, which this torch is built without; "
                "give False"
            )
        self.lambda_param = lambda_param
        self.gather_distributed = gather_distributed
        self.form = form

    def terms(self, z_a: Tensor, z_b: Tensor) -> tuple[Tensor, Tensor]:
        """The invariance term and the redundancy term, without its weight, of projections (batch, dim).

        Raises:
            ValueError: other shapes, integers or complex numbers, different devices, the meta device, or
                a batch of one.
        """
        check_pair(z_a, z_b)
        with torch.autocast(z_a.device.type, enabled=False):
            z_a = widen(z_a)
            dtype = z_a.dtype
            z_b = z_b.to(dtype)
            if self.gather_distributed:
                z_a, z_b = gather_batch(z_a), gather_batch(z_b)
            batch, dim = z_a.shape
            if batch < 2:
                raise ValueError(f"a batch of {batch} has no correlation; give at least 2 samples")
            if batch <= SMALL_BATCH and z_a.device.type != "mps":  # which has no float64
                z_a, z_b = z_a.double(), z_b.double()
            # one (dim, dim) product of depth batch against two (batch, batch) ones of depth dim
            gram = self.form == "gram" or (self.form == "auto" and 2 * batch < dim)
            terms = gram_terms if gram else correlation_terms
            invariance, redundancy = terms(standardise(z_a), standardise(z_b))
            return invariance.to(dtype), redundancy.to(dtype)

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Scalar loss of two batches of projections (batch, dim); row i of both is from one image."""
        invariance, redundancy = self.terms(z_a, z_b)
        return invariance + self.lambda_param * redundancy
