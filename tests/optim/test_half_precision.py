"""Half-precision parameters: everything that is summed is summed in float32."""

import pytest
import torch
from helpers.matrices import nearest_orthonormal
from helpers.torch_muon import skip_without_muon
from torch import nn

from sslortho.optim import LARS, Muon, OrthLARS, OrthSGD
from sslortho.optim.gradients import normalise_, orthonormalise_
from sslortho.optim.lars import lars_direction, lars_directions
from sslortho.optim.momentum import BUFFER, replace_by_momentum
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


# --- Momentum before the orthonormalisation ---------------------------------------------------------

BEFORE = {
    "Muon": lambda params: Muon(params, lr=0.02),
    "OrthSGD": lambda params: OrthSGD(
        params, lr=0.02, momentum=0, orth_momentum=0.95, nesterov=True, polar="svd"
    ),
}


@pytest.mark.parametrize("make", BEFORE.values(), ids=BEFORE)
def test_sums_of_large_gradients_stay_in_range(make):
    """60 gradients of 5,000, whose sum is 20 times as large: above 65,504."""
    skip_without_muon()
    # a few directions, on which Muon's five steps and the exact factor agree but for the length
    gradient = torch.linalg.qr(draw((16, 8), 1.0, torch.float32))[0].half() * 5000
    ours, theirs = (nn.Parameter(torch.zeros(16, 8).half()) for _ in range(2))
    optimizer = make([ours])
    other = torch.optim.Muon([theirs], lr=0.02, weight_decay=0)
    for _ in range(60):
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        other.step()
    assert theirs.isfinite().all()
    assert ours.isfinite().all()
    cosine = torch.nn.functional.cosine_similarity(
        ours.flatten().float(), theirs.flatten().float(), 0
    )
    assert cosine > 0.999


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 5000.0])
@pytest.mark.parametrize("nesterov", [False, True])
def test_the_momentum_is_averaged_in_float32(nesterov, scale, dtype):
    """Against the mean in float64, of gradients that would overflow a sum in float16 or vanish in a mean."""
    parameter = nn.Parameter(torch.zeros(8, 8, dtype=dtype))
    total = torch.zeros(8, 8).double()
    states = {parameter: {}}
    for step in range(60):
        parameter.grad = gradient = draw((8, 8), scale, dtype, seed=step).abs()
        total = 0.95 * total + 0.05 * gradient.double()
        expected = 0.05 * gradient.double() + 0.95 * total if nesterov else total
        parameter.grad = gradient.clone()
        replace_by_momentum([parameter], states, 0.95, nesterov)
        assert parameter.grad.dtype == dtype
        found = parameter.grad.double()
        torch.testing.assert_close(  # the scale is free
            found / found.norm(), expected / expected.norm(), rtol=torch.finfo(dtype).eps, atol=0
        )
    assert states[parameter][BUFFER].dtype == torch.float32
    torch.testing.assert_close(states[parameter][BUFFER].double(), total, rtol=1e-5, atol=0)


def test_a_broken_matrix_leaves_the_others_of_its_gradient_alone():
    parameter = nn.Parameter(torch.zeros(4, 3).half())
    parameter.grad = draw((4, 3), 1.0, torch.float16)
    parameter.grad[0, 0] = torch.inf
    parameter.grad[1, 1] = torch.nan
    expected = nearest_orthonormal(parameter.grad[2:])
    optimizer = OrthSGD([parameter], lr=1.0, orth_momentum=0.5, orth_components=2)
    optimizer.step()
    assert parameter[:2].isnan().all()
    torch.testing.assert_close(-parameter[2:].detach().double(), expected, rtol=1e-3, atol=1e-3)
    parameter.data.zero_()
    parameter.grad = torch.zeros(4, 3).half()
    OrthSGD([parameter], lr=1.0, orth_momentum=0.5).step()
    assert not parameter.any()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("make", BEFORE.values(), ids=BEFORE)
def test_a_loaded_momentum_keeps_its_precision(make, dtype):
    params = [nn.Parameter(draw((6, 4), 1.0, dtype)), nn.Parameter(draw((5,), 1.0, dtype))]
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    optimizer, twin = make(params), make(twins)

    def step(optimizer, params, number):
        for p in params:
            p.grad = draw(p.shape, 5000.0, dtype, seed=number)
        optimizer.step()

    for number in range(30):
        step(optimizer, params, number)
    for p, q in zip(params, twins, strict=True):
        q.data.copy_(p)
    twin.load_state_dict(optimizer.state_dict())
    saved, loaded = optimizer.state[params[0]][BUFFER], twin.state[twins[0]][BUFFER]
    assert torch.equal(saved, loaded)
    assert saved.data_ptr() != loaded.data_ptr()
    step(optimizer, params, 30)
    step(twin, twins, 30)
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))


def test_a_half_precision_buffer_of_before_is_widened():
    parameter = nn.Parameter(torch.zeros(3, 4).half())
    parameter.grad = torch.ones(3, 4).half()
    states = {parameter: {BUFFER: torch.full((3, 4), 2.0).half()}}
    replace_by_momentum([parameter], states, 0.5, nesterov=False)
    assert torch.equal(states[parameter][BUFFER], torch.full((3, 4), 0.5 * 2 + 0.5 * 1))


@pytest.mark.parametrize("returned", [True, False])
def test_hooks_of_a_loaded_state_change_what_is_kept_in_float32(returned):
    """And the hooks after it see float32, as they would a state that was never saved."""
    parameter = nn.Parameter(draw((6, 4), 1.0, torch.float16))
    optimizer = Muon([parameter])
    parameter.grad = draw((6, 4), 1.0, torch.float16)
    optimizer.step()
    state = optimizer.state_dict()
    third = torch.full((6, 4), 1 / 3)  # not a number of float16
    seen = []

    def change(_, loaded):
        changed = {0: {**loaded["state"][0], BUFFER: third}}
        if returned:
            return {**loaded, "state": changed}
        loaded["state"] = changed
        return None

    optimizer.register_load_state_dict_pre_hook(change)
    optimizer.register_load_state_dict_post_hook(
        lambda o: seen.append(o.state[parameter][BUFFER].dtype)
    )
    optimizer.load_state_dict(state)
    assert torch.equal(optimizer.state[parameter][BUFFER], third)
    assert seen == [torch.float32]
    optimizer.load_state_dict(state)  # no hook of ours is left behind
    assert len(optimizer._optimizer_load_state_dict_pre_hooks) == 1
    assert len(optimizer._optimizer_load_state_dict_post_hooks) == 1
