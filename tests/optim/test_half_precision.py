"""Half-precision parameters: everything that is summed is summed in float32."""

import pytest
import torch
from helpers.matrices import nearest_orthonormal
from torch import nn

from sslortho.optim import LARS, OrthLARS, OrthSGD
from sslortho.optim.gradients import normalise_, orthonormalise_
from sslortho.optim.lars import lars_direction, lars_directions
from sslortho.optim.monitor import count_disabled, filter_cosine, measure_gradient
from sslortho.optim.wrapped import ComponentNormSGD, NormSGD

HALVES = [torch.float16, torch.bfloat16]


def draw(shape, scale, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * scale).to(dtype)


def make_pair(weight, gradient):
    """The same parameter in its own precision and in float64."""
    pair = [nn.Parameter(weight.clone()), nn.Parameter(weight.double())]
    for parameter in pair:
        parameter.grad = gradient.to(parameter.dtype)
    return pair


CASES = {
    "norm above 65504": ((64, 64), 3000.0, 1.0),
    "gradient of norm above 65504": ((64, 64), 0.02, 3000.0),
    "both": ((64, 64), 900.0, 3000.0),
    "ratio below 6e-8": ((64, 64), 1e-3, 3000.0),
    "ratio above 65504": ((64, 64), 3000.0, 1e-4),
    "squares below 6e-8": ((64, 64), 1e-4, 1e-5),
    "one row": ((1, 4096), 3000.0, 1.0),
    "filters": ((16, 8, 3, 3), 3000.0, 500.0),
}
"""Shape, scale of the parameter and of the gradient."""


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1},
        {"nesterov": True, "weight_decay": 1e-3},
        {"momentum": 0.0},
        {"trust_coefficient": None, "lr": 1e-4},
        {"maximize": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("case", list(CASES))
def test_a_step_of_lars_is_the_exact_one_rounded(case, options, foreach, dtype):
    shape, scale, gradient_scale = CASES[case]
    options = {"lr": 1.0, **options}
    half, exact = make_pair(draw(shape, scale, dtype), draw(shape, gradient_scale, dtype, seed=1))
    for parameter in (half, exact):
        LARS([parameter], foreach=foreach, **options).step()
    assert half.isfinite().all()
    expected = exact.detach().to(dtype)
    # float32 may round to the neighbour where float64 is at the middle of two
    apart = (half.detach() != expected).float().mean()
    assert apart < 0.01
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(half.detach(), expected, rtol=eps, atol=1e-7)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("cls", [LARS, OrthLARS])
def test_large_weights_stay_finite_over_many_steps(cls, foreach, dtype):
    half, exact = make_pair(draw((64, 64), 3000, dtype), draw((64, 64), 1, dtype))
    optimizers = [cls([p], lr=1.0, foreach=foreach) for p in (half, exact)]
    for step in range(10):
        gradient = draw((64, 64), 100.0, dtype, seed=step)
        for parameter, optimizer in zip((half, exact), optimizers, strict=True):
            parameter.grad = gradient.to(parameter.dtype)
            optimizer.step()
    moved = torch.linalg.vector_norm(exact.detach() - draw((64, 64), 3000, dtype).double())
    # each step rounds by half a unit in the last place, as steps along random directions add up
    rounding = torch.finfo(dtype).eps * torch.linalg.vector_norm(exact.detach()) * 10**0.5
    assert moved > 0
    assert torch.linalg.vector_norm(half.detach().double() - exact.detach()) < 2 * rounding


@pytest.mark.parametrize("dtype", HALVES)
def test_both_forms_of_the_direction_are_in_float32(dtype):
    parameter, gradient = draw((64, 64), 3000, dtype), draw((64, 64), 1, dtype)
    alone = lars_direction(parameter, gradient, 0.1, 1e-3)
    (together,) = lars_directions([parameter], [gradient], 0.1, 1e-3)
    direction = gradient.double() + 0.1 * parameter.double()
    expected = direction * 1e-3 * parameter.double().norm() / direction.norm()
    for value in (alone, together):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 3000.0])
def test_gradients_are_orthonormalised_in_float32(scale, dtype):
    parameter = nn.Parameter(torch.zeros(32, 64, dtype=dtype))
    parameter.grad = draw((32, 64), scale, dtype)
    expected = nearest_orthonormal(parameter.grad)
    orthonormalise_([parameter])
    assert parameter.grad.dtype == dtype
    torch.testing.assert_close(
        parameter.grad.double(), expected, rtol=torch.finfo(dtype).eps, atol=2e-5
    )


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 3000.0])
@pytest.mark.parametrize("per", ["layer", "component"])
def test_gradients_are_normalised_in_float32(per, scale, dtype):
    parameter = nn.Parameter(torch.zeros(32, 64, dtype=dtype))
    parameter.grad = draw((32, 64), scale, dtype)
    raw = parameter.grad.double()
    norm = raw.norm() if per == "layer" else raw.norm(dim=1, keepdim=True)
    normalise_([parameter], per)
    torch.testing.assert_close(
        parameter.grad.double(), raw / norm, rtol=torch.finfo(dtype).eps, atol=1e-7
    )


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("cls", [OrthSGD, OrthLARS, NormSGD, ComponentNormSGD])
def test_every_optimizer_keeps_large_half_precision_weights_finite(cls, dtype):
    half, exact = make_pair(draw((64, 64), 3000, dtype), draw((64, 64), 2000, dtype, seed=1))
    for parameter in (half, exact):
        cls([parameter], lr=100.0).step()
    assert half.isfinite().all()
    # the gradient is rounded too; the longest step of an entry, of OrthLARS, is about 1000
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(half.detach().double(), exact.detach(), rtol=eps, atol=500 * eps)


@pytest.mark.parametrize("dtype", HALVES)
def test_measurements_are_those_of_the_values_in_float64(dtype):
    gradient = draw((64, 64), 3000, dtype)
    figures, expected = measure_gradient(gradient), measure_gradient(gradient.double())
    for name in expected:
        assert figures[name].item() == pytest.approx(expected[name].item(), rel=1e-5), name
    cosine = filter_cosine(gradient)
    assert cosine.item() == pytest.approx(filter_cosine(gradient.double()).item(), rel=1e-5)


@pytest.mark.parametrize("dtype", HALVES)
def test_tiny_entries_are_counted_by_their_values(dtype):
    """The limit of 1e-4 is no number of either precision; their nearest ones are above it."""
    above = torch.tensor([[1e-4, 2e-4, 0.0, 5e-5]]).to(dtype)
    assert above.double()[0, 0] > 1e-4
    counted = count_disabled(above)
    assert (counted["tiny_gradients"], counted["zero_gradients"]) == (2, 1)


def test_buffers_and_parameters_keep_their_precision():
    half, _ = make_pair(draw((8, 8), 1, torch.float16), draw((8, 8), 1, torch.float16))
    optimizer = LARS([half], lr=1.0)
    optimizer.step()
    assert half.dtype == torch.float16
    assert optimizer.state[half]["momentum_buffer"].dtype == torch.float16
