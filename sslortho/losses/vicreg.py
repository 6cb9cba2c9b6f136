"""The VICReg loss."""

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, relu

from sslortho.losses.gather import gather_batch
from sslortho.losses.inputs import check_pair, check_weight, widen
from sslortho.losses.off_diagonal import off_diagonal

EPS = 1e-4
"""Added to each variance, as facebookresearch/vicreg and lightly do."""


def variance_loss(z: Tensor) -> Tensor:
    """Hinge loss that keeps the deviation of each dimension of (batch, dim) at 1 (eq. 1)."""
    return relu(1.0 - torch.sqrt(z.var(dim=0) + EPS)).mean()


def covariance_loss(z: Tensor) -> Tensor:
    """Sum of the squared covariances of different dimensions of (batch, dim), divided by dim (eq. 4)."""
    batch, dim = z.shape
    centred = z - z.mean(dim=0)
    covariance = torch.einsum("bc,bd->cd", centred, centred) / (batch - 1)
    return off_diagonal(covariance).reshape(-1).pow(2).sum(-1) / dim


class VICRegLoss(nn.Module):
    """The VICReg loss (arXiv 2105.04906, eq. 6), on a CPU bit for bit that of lightly's class.

    `loss(z_a, z_b)` takes two batches of projections (batch, dim) and returns a scalar. lightly's class
    waits for the GPU in each step; this one does not.

    Args:
        invariance, variance, covariance: weights of the three terms.
        gather_distributed: whether variances and covariances are those of all ranks' batches. Then
            gradients averaged over ranks are those of one rank with the whole batch; every rank must
            bring as many samples.

    Computed in float32 (float64 for float64 input) with autocast off.

    Raises ValueError for a weight that is negative or infinite; when called, for two batches that are not
    (batch, dim) of one shape, integers or complex numbers, different devices, the meta device, or a batch of
    one.
    """

    def __init__(
        self,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__()
        for name, weight in (
            ("invariance", invariance),
            ("variance", variance),
            ("covariance", covariance),
        ):
            check_weight(name, weight)
        self.invariance, self.variance, self.covariance = invariance, variance, covariance
        self.gather_distributed = gather_distributed

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Scalar loss of two batches of projections (batch, dim); row i of both is from one image."""
        check_pair(z_a, z_b)
        with torch.autocast(z_a.device.type, enabled=False):
            z_a = widen(z_a)
            return self._weigh(z_a, z_b.to(z_a.dtype))

    def _weigh(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """The sum of the three terms of projections (batch, dim)."""
        invariance = mse_loss(z_a, z_b)
        if self.gather_distributed:
            z_a, z_b = (
                gather_batch(z_a),
                gather_batch(z_b),
            )  # what follows is the same on every rank
        if len(z_a) < 2:
            raise ValueError(f"a batch of {len(z_a)} has no variance; give at least 2 samples")
        variance = 0.5 * (variance_loss(z_a) + variance_loss(z_b))
        covariance = covariance_loss(z_a) + covariance_loss(z_b)
        return (
            self.invariance * invariance + self.variance * variance + self.covariance * covariance
        )
