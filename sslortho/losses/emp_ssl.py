"""The EMP-SSL loss: cosines with the mean of many views, and the total coding rate."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from sslortho.losses.gather import gather_batch
from sslortho.losses.inputs import check_positive, check_stack, check_weight, widen

MOST_IN_FLOAT32 = 1e4
"""dim / eps, the largest possible eigenvalue of the matrix, up to which float32 is enough: the rate of
a batch that has wholly collapsed is then off by 3e-4 (measured), and its gradient by 2 %."""


def coding_rate_reference(z: Tensor, eps: float) -> Tensor:
    """Total coding rate of (batch, dim), in nats: 1/2 log det(I + dim / (batch eps) z^T z).

    As arXiv 2304.03977, section 3, has it; `eps` is its squared epsilon.
    """
    batch, dim = z.shape
    matrix = torch.eye(dim, dtype=z.dtype, device=z.device) + dim / (batch * eps) * z.mT @ z
    return torch.logdet(matrix) / 2


def coding_rate(z: Tensor, eps: float) -> Tensor:
    """`coding_rate_reference` of each (batch, dim) in (..., batch, dim): (...).

    det(I + a z^T z) = det(I + a z z^T), so the smaller of the two is decomposed, by Cholesky's method,
    without waiting for a GPU. For rows of length 1 its eigenvalues lie between 1 and 1 + dim / eps: where
    that is more than `MOST_IN_FLOAT32`, float32 would round the small ones away, and all is in float64.
    """
    batch, dim = z.shape[-2:]
    short = z if batch <= dim else z.mT
    if dim / eps > MOST_IN_FLOAT32:
        short = short.double()
    matrix = dim / (batch * eps) * short @ short.mT
    matrix = matrix + torch.eye(len(matrix[0]), dtype=short.dtype, device=z.device)
    factor, _ = torch.linalg.cholesky_ex(matrix)  # which looks for no failures, so nothing waits
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1).to(z.dtype)


class EMPSSLLoss(nn.Module):
    """The EMP-SSL loss (arXiv 2304.03977, section 3): minus the paper's objective, which is maximised.

    `loss(z)` takes projections (views, batch, dim) of any length, scales them to length 1, and returns a
    scalar: minus the mean cosine of each with the mean over its image's views, and minus the total coding
    rate of the batch, averaged over the views.

    Args:
        similarity: weight of the cosines.
        coding_rate: weight of the coding rate.
        eps: squared distortion up to which samples are coded.
        gather_distributed: whether the coding rate is that of all ranks' batches. Then gradients averaged
            over ranks are those of one rank with the whole batch; every rank must bring as many samples.

    Computed in float32 (float64 for float64 input) with autocast off.

    Raises ValueError for a weight that is negative or infinite, and for an eps of 0, less or infinity.
    """

    def __init__(
        self,
        similarity: float = 200.0,
        coding_rate: float = 1.0,
        eps: float = 0.2,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__()
        check_weight("similarity", similarity)
        check_weight("coding_rate", coding_rate)
        check_positive("eps", eps)
        self.similarity, self.coding_rate, self.eps = similarity, coding_rate, eps
        self.gather_distributed = gather_distributed

    def terms(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The mean cosine and the mean coding rate, both to be raised.

        Raises ValueError for another shape, integers or complex numbers, or the meta device.
        """
        if z.ndim != 3:
            raise ValueError(f"z must be (views, batch, dim), got {tuple(z.shape)}")
        check_stack(z)
        with torch.autocast(z.device.type, enabled=False):
            z = normalize(widen(z), dim=-1)
            cosine = cosine_similarity(z, z.mean(dim=0, keepdim=True), dim=-1).mean()
            if self.gather_distributed:
                z = gather_batch(z.transpose(0, 1)).transpose(0, 1)
            return cosine, coding_rate(z, self.eps).mean()

    def forward(self, z: Tensor) -> Tensor:
        cosine, rate = self.terms(z)
        return -self.similarity * cosine - self.coding_rate * rate
