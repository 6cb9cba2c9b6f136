"""Gradients as they come: any memory layout, type, size and rank."""

import pytest
import torch
from torch import nn

from conformance.checks import (
    LEFT_OUT,
    check_first_step,
    is_left_out,
    polar_bases,
    require_orthogonal,
    set_gradients,
    spectral_distance,
    spread_gradient,
    update_of,
)
from conformance.layers import Case, Network

DENSE = Case("dense", lambda: nn.Linear(20, 8))
CONVOLUTION = Case("convolution", lambda: nn.Conv2d(4, 8, 3))


def test_channels_last(adapter):
    case = Case("", lambda: nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last))
    gradient = spread_gradient((8, 4, 3, 3)).contiguous(memory_format=torch.channels_last)
    check_first_step(adapter, case, gradient)


def test_channels_last_gradient_of_contiguous_weight(adapter):
    gradient = spread_gradient((8, 4, 3, 3)).contiguous(memory_format=torch.channels_last)
    check_first_step(adapter, CONVOLUTION, gradient)


def test_transposed_gradient(adapter):
    check_first_step(adapter, DENSE, spread_gradient((20, 8)).t())


def test_strided_gradient(adapter):
    check_first_step(adapter, DENSE, spread_gradient((8, 40))[:, ::2])


def test_zero_gradient(adapter):
    _, update = update_of(adapter.first, nn.Linear(20, 8), torch.zeros(8, 20))
    assert torch.equal(update, torch.zeros_like(update))


def test_no_gradient(adapter):
    model = Network(nn.Linear(20, 8), nn.Linear(20, 8))
    set_gradients(model)
    weight = model.body[0].weight
    weight.grad = None
    before = weight.detach().clone()
    adapter.first.build(model, 1.0).step()
    assert torch.equal(weight, before)


def test_rank_deficient_gradient(adapter):
    require_orthogonal(adapter)
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(24, 3, generator=generator) @ torch.randn(3, 16, generator=generator)
    before, update = update_of(adapter.first, nn.Linear(16, 24), gradient.clone())
    u, vt = polar_bases(gradient, rank=3)
    # the scale of a matrix of full rank, but for LARS's ratio
    update = update / adapter.first.scale(before, [u @ vt])
    inside = u @ (u.mT @ update @ vt.mT) @ vt
    assert spectral_distance(inside, u, vt) <= adapter.accuracy
    noise = torch.linalg.matrix_norm(update - inside, ord=2).item()
    assert noise <= 0.3, (
        f"{noise:.2f} along directions that the gradient lacks: rounding, amplified"
    )


@pytest.mark.parametrize("size", [1e-6, 1e6], ids=["tiny", "huge"])
def test_gradient_size(adapter, size):
    check_first_step(adapter, DENSE, size * spread_gradient((8, 20)))


class Zero(nn.Linear):
    """A dense layer of zeros, so that no step is rounded against a weight."""

    def __init__(self) -> None:
        super().__init__(20, 8)
        nn.init.zeros_(self.weight)


@pytest.mark.parametrize("size", [1, 1e-4, 3e3], ids=["", "small", "large"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_half(adapter, dtype, size):
    require_orthogonal(adapter)
    gradient = (size * spread_gradient((8, 20))).to(dtype)
    _, update = update_of(adapter.first, Zero(), gradient.clone())
    assert update.isfinite().all()
    if is_left_out(update, gradient.double()):
        pytest.skip(LEFT_OUT)
    u, vt = polar_bases(gradient)
    update = update / adapter.first.scale(torch.zeros(8, 20), [u @ vt])
    rounding = 8 * torch.finfo(dtype).eps  # of the update, in a matrix of rank 8
    assert spectral_distance(update, u, vt) <= adapter.accuracy + rounding
