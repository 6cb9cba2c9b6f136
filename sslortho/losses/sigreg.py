"""SIGReg, the distance of a distribution from a standard Gaussian in random directions (arXiv 2511.08544)."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sslortho.losses.gather import count_ranks, mean_over_ranks
from sslortho.losses.inputs import check_positive, check_stack, widen

POINTS, LIMIT = 17, 5.0
"""Knots of the trapezoidal rule, from -LIMIT to LIMIT (arXiv 2511.08544, algorithm 1 and section 6.1).

The authors' code has 17 knots from 0 to 3 by default, EppsPulley(t_max=3, n_points=17), which are
limit=3.0 and points=33 here; the paper's are its t_max=5 and n_points=9.
"""


def epps_pulley_exact(x: Tensor) -> Tensor:
    """The Epps-Pulley statistic against N(0, 1), integrated exactly: (..., batch, slices) to (..., slices).

    With the characteristic functions f of the batch and exp(-t^2 / 2) of the Gaussian,

        batch * integral of |f(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt,

    in which every term is a Gaussian integral. It takes batch^2 differences.
    """
    n = x.shape[-2]
    differences = x.unsqueeze(-2) - x.unsqueeze(-3)
    pairs = torch.exp(-differences.square() / 2).sum(dim=(-2, -3)) / n
    mixed = torch.exp(-x.square() / 4).sum(dim=-2)
    return (
        math.sqrt(2 * math.pi) * pairs
        - 2 * math.sqrt(math.pi) * mixed
        + math.sqrt(2 * math.pi / 3) * n
    )


def epps_pulley_reference(x: Tensor, limit: float = LIMIT, points: int = POINTS) -> Tensor:
    """The same by the published quadrature, written as algorithm 1 of arXiv 2511.08544 has it."""
    t = torch.linspace(-limit, limit, points, dtype=x.dtype, device=x.device)
    gaussian = torch.exp(-t.square() / 2)
    found = torch.exp(1j * x.unsqueeze(-1) * t).mean(dim=-3)
    error = (found - gaussian).abs().square() * gaussian
    return x.shape[-2] * torch.trapezoid(error, t, dim=-1)


class _MeanWaves(torch.autograd.Function):
    """Means over the batch of cos(k s x) and sin(k s x) for k = 1 to `count`, with s the step.

    (..., batch, slices) to (2, count, ..., slices). Multiples of an angle follow from the first by
    addition, so there are two trigonometric functions instead of 2 * count; and only x is kept for the
    backward pass, not 2 * count tensors of its size.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: float, count: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.step, ctx.count = step, count
        means = [(c.mean(dim=-2), s.mean(dim=-2)) for c, s in _rotate(x, step, count)]
        return torch.stack([torch.stack(part) for part in zip(*means, strict=True)])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        of_cos, of_sin = grads[0].unsqueeze(-2)
        total = torch.zeros_like(x)
        for k, (c, s) in enumerate(_rotate(x, ctx.step, ctx.count)):
            factor = (k + 1) * ctx.step / x.shape[-2]
            total += factor * (of_sin[k] * c - of_cos[k] * s)
        return total, None, None


def _rotate(x: Tensor, step: float, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Cosine and sine of step * x, 2 * step * x, ..., by angle addition."""
    angle = step * x
    c1, s1 = angle.cos(), angle.sin()
    c, s = c1, s1
    for k in range(count):
        if k:
            c, s = c * c1 - s * s1, s * c1 + c * s1
        yield c, s


def epps_pulley(
    x: Tensor, gather_distributed: bool = False, limit: float = LIMIT, points: int = POINTS
) -> Tensor:
    """`epps_pulley_reference` with less work, and on request of the batches of all ranks together.

    The integrand is even and 0 at t = 0, so half of the knots suffice.

    Args:
        x: float32 or float64 (..., batch, slices).
        gather_distributed, limit, points: see `SIGReg`.

    Returns:
        (..., slices).
    """
    count = points // 2
    step = limit / count
    means, ranks = _MeanWaves.apply(x, step, count), 1
    assert isinstance(means, Tensor)
    if gather_distributed:
        means, ranks = mean_over_ranks(means), count_ranks()
    cosines, sines = means.movedim(1, -1)
    k = torch.arange(1, count + 1, dtype=x.dtype, device=x.device)
    gaussian = torch.exp(-(step * k).square() / 2)
    # both halves together; the last knot is an end of the trapezoidal rule
    weights = 2 * step * gaussian * torch.where(k < count, 1.0, 0.5)
    error = (cosines - gaussian).square() + sines.square()
    return ranks * x.shape[-2] * (error * weights).sum(dim=-1)


def draw_slices(seed: int, dim: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Random directions, float32 (dim, count), of length 1: the same for a seed on any rank and device.

    They are bit for bit those of rbalestr-lab/lejepa on a CPU. Nothing waits for a GPU: they are drawn while it
    works, and sent from pinned memory.
    """
    generator = torch.Generator().manual_seed(seed)
    slices = torch.randn(dim, count, generator=generator, dtype=torch.float32, device="cpu")
    slices /= torch.linalg.vector_norm(slices, dim=0)
    device = torch.device(device)
    if device.type == "cuda":
        return slices.pin_memory().to(device, non_blocking=True)
    return slices.to(device)


class SIGReg(nn.Module):
    """Sketched isotropic Gaussian regularisation (arXiv 2511.08544, section 4.2 and algorithm 1).

    `loss(z, slices)` takes projections (..., batch, dim) and directions (dim, number), and returns the
    mean of the Epps-Pulley statistics, a scalar: of a batch that is drawn from a standard Gaussian 1.06 on
    average, whatever its size, and 0.41 * batch if all its samples are 0 (with the paper's knots).

    Args:
        gather_distributed: whether the batch is that of all ranks. The statistic is then a function of
            means over it, which are all that ranks exchange. Gradients averaged over ranks are those of
            one rank with the whole batch; every rank must bring as many samples.
        limit: end of the integral, which is from -limit to limit.
        points: knots of the integral, an odd number, with both ends and 0.

    Computed in float32 (float64 for float64 input) with autocast off.

    Raises ValueError for a limit that is not above 0 and finite, or for points that are even or fewer than
    3; when called, for another shape, integers or complex numbers, different devices, or the meta device.
    """

    def __init__(
        self, gather_distributed: bool = False, limit: float = LIMIT, points: int = POINTS
    ) -> None:
        super().__init__()
        check_positive("limit", limit)
        if points < 3 or points % 2 == 0:
            raise ValueError(f"points={points} must be odd, and 3 or more")
        self.gather_distributed = gather_distributed
        self.limit, self.points = limit, points

    def forward(self, z: Tensor, slices: Tensor) -> Tensor:
        if z.ndim < 2 or slices.ndim != 2 or len(slices) != z.shape[-1]:
            raise ValueError(
                f"z of shape {tuple(z.shape)} must be (..., batch, dim), and slices of shape "
                f"{tuple(slices.shape)} (dim, number)"
            )
        check_stack(z, slices=slices)
        with torch.autocast(z.device.type, enabled=False):
            z = widen(z)
            projections = z @ slices.to(z.dtype)
            return epps_pulley(projections, self.gather_distributed, self.limit, self.points).mean()
