"""The VICReg loss."""

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, relu

from sslortho.losses.gather import gather_parts
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
    """

    def __init__(
        self,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__()
        self.invariance, self.variance, self.covariance = invariance, variance, covariance
        self.gather_distributed = gather_distributed

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        if len(z_a) < 2:
            raise ValueError(f"VICReg needs two samples or more for a variance, got {len(z_a)}")
        invariance = mse_loss(z_a, z_b)
        if self.gather_distributed:
            z_a, z_b = gather_parts(z_a), gather_parts(z_b)
        variance = 0.5 * (variance_loss(z_a) + variance_loss(z_b))
        covariance = covariance_loss(z_a) + covariance_loss(z_b)
        return (
            self.invariance * invariance + self.variance * variance + self.covariance * covariance
        )
