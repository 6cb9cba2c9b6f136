"""The LeJEPA loss."""

import torch
from torch import Tensor, nn

from sslortho.losses.inputs import check_stack, widen
from sslortho.losses.sigreg import SIGReg


class LeJEPALoss(nn.Module):
    """The LeJEPA loss (arXiv 2511.08544, section 5.1 and algorithm 2).

    `loss(z, slices)` takes projections (views, batch, dim) and directions (dim, number) of
    `draw_slices`, and returns a scalar.

    Args:
        lambda_param: weight of SIGReg, from 0 to 1; that of the distance between views is the rest.
        gather_distributed: see `SIGReg`.

    Computed in float32 (float64 for float64 input) with autocast off.

    Raises ValueError for a weight beyond these bounds.
    """

    def __init__(self, lambda_param: float = 0.05, gather_distributed: bool = False) -> None:
        super().__init__()
        if not 0 <= lambda_param <= 1:
            raise ValueError(f"lambda_param={lambda_param} must be from 0 to 1")
        self.lambda_param = lambda_param
        self.sigreg = SIGReg(gather_distributed)

    def terms(
        self, z: Tensor, slices: Tensor, global_views: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The distance of views from their centre, and SIGReg, both without weights.

        The first is the mean square of the differences between all views' projections and the mean of the
        first `global_views`; by default of all. SIGReg looks at each view by itself, and is averaged.

        Raises ValueError for another shape, integers or complex numbers, different devices, the meta device,
        or global views that are none or more than there are.
        """
        if z.ndim != 3 or slices.ndim != 2 or len(slices) != z.shape[2]:
            raise ValueError(
                f"z of shape {tuple(z.shape)} must be (views, batch, dim), and slices of shape "
                f"{tuple(slices.shape)} (dim, number)"
            )
        check_stack(z, slices=slices)
        if global_views is not None and not 1 <= global_views <= len(z):
            raise ValueError(
                f"global_views={global_views} must be from 1 to the number of views, {len(z)}; leave it out "
                "for all"
            )
        with torch.autocast(z.device.type, enabled=False):
            z = widen(z)
            centre = z[:global_views].mean(dim=0)
            return (z - centre).square().mean(), self.sigreg(z, slices)

    def forward(self, z: Tensor, slices: Tensor, global_views: int | None = None) -> Tensor:
        distance, sigreg = self.terms(z, slices, global_views)
        return (1 - self.lambda_param) * distance + self.lambda_param * sigreg
