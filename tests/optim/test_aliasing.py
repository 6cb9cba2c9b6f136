"""Gradients whose memory is not theirs alone are taken by their values, as SGD takes them."""

import copy

import pytest
import torch
from helpers.matrices import nearest_orthonormal
from torch import nn

from sslortho.optim import (
    LARS,
    OrthAdam,
    OrthAdamW,
    OrthLARS,
    OrthSGD,
    orthogonal,
    orthonormalise_,
)
from sslortho.optim.aliasing import separate_gradients
from sslortho.optim.gradients import normalise_
from sslortho.optim.wrapped import ComponentNormSGD, NormSGD

ORTHOGONAL = [OrthSGD, OrthAdam, OrthAdamW, OrthLARS, orthogonal(torch.optim.RMSprop)]
EVERY = [*ORTHOGONAL, NormSGD, ComponentNormSGD, LARS]


def sum_gradient(weight):
    (gradient,) = torch.autograd.grad(weight.sum(), weight)
    assert gradient.stride() == (0,) * weight.ndim  # expanded from one number
    return gradient


def overlapping(weight):
    """Every row is the one before, moved by one: entries share memory, which torch does not notice."""
    base = torch.randn(weight.numel(), generator=torch.Generator().manual_seed(3))
    return base.as_strided(weight.shape, [1] * weight.ndim)


def broadcast(weight):
    generator = torch.Generator().manual_seed(4)
    return torch.randn(weight.shape[1:], generator=generator).expand(weight.shape)


def channels_last(weight):
    gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(5))
    return gradient.movedim(1, -1).contiguous().movedim(-1, 1)


def strided(weight):
    generator = torch.Generator().manual_seed(6)
    return torch.randn(*weight.shape, 2, generator=generator)[..., 1]


def transposed(weight):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(weight.shape[::-1], generator=generator).permute(
        *reversed(range(weight.ndim))
    )


MAKERS = [sum_gradient, overlapping, broadcast, channels_last, strided, transposed]


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("shape", [(3, 5), (4, 3, 2, 2), (6, 1, 3, 3), (1, 7)], ids=str)
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("cls", EVERY)
def test_a_step_is_that_of_the_values_in_memory_of_their_own(cls, make, shape, foreach):
    weights = [nn.Parameter(torch.ones(shape)) for _ in range(2)]
    gradient = make(weights[0])
    weights[0].grad = gradient
    weights[1].grad = gradient.clone(memory_format=torch.contiguous_format)
    for weight in weights:
        cls([weight], lr=0.1, foreach=foreach).step()
    assert not torch.equal(weights[0], torch.ones(shape))
    torch.testing.assert_close(weights[0], weights[1])


def test_the_gradient_of_a_sum():
    weight = nn.Parameter(torch.zeros(2, 8))
    weight.grad = sum_gradient(weight)
    OrthSGD([weight], lr=1.0).step()
    # a matrix of ones is 4 times the outer product of two unit vectors
    torch.testing.assert_close(weight.detach(), torch.full((2, 8), -0.25))
    torch.testing.assert_close(weight.grad, torch.full((2, 8), 0.25))


@pytest.mark.parametrize(
    "replace", [orthonormalise_, normalise_, lambda p: normalise_(p, "component")]
)
@pytest.mark.parametrize("make", MAKERS)
def test_the_functions_take_the_values_too(make, replace):
    weights = [nn.Parameter(torch.ones(4, 3, 2, 2)) for _ in range(2)]
    gradient = make(weights[0])
    for weight in weights:
        weight.grad = gradient.clone(memory_format=torch.contiguous_format)
    weights[0].grad = gradient
    replace(weights[0])  # a single parameter
    replace(iter(weights[1:]))  # an iterator
    torch.testing.assert_close(weights[0].grad, weights[1].grad)


def split_one_buffer():
    """A wide and a tall matrix and a bias whose gradients lie across each other in one buffer."""
    buffer = torch.randn(24, generator=torch.Generator().manual_seed(0))
    weights = [nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (4, 3), (5,), (2, 6))]
    weights[0].grad = buffer[:12].view(3, 4)
    weights[1].grad = buffer[4:16].view(3, 4).T
    weights[2].grad = buffer[10:15]
    weights[3].grad = buffer[:12].view(2, 6)
    return weights


@pytest.mark.parametrize("cls", [*ORTHOGONAL, NormSGD, ComponentNormSGD])
@pytest.mark.parametrize("several_groups", [False, True])
def test_gradients_in_one_buffer_do_not_disturb_each_other(cls, several_groups):
    shared = split_one_buffer()
    apart = [nn.Parameter(p.detach().clone()) for p in shared]
    for p, q in zip(shared, apart, strict=True):
        q.grad = p.grad.clone()
    for weights in (shared, apart):
        groups = [{"params": [p], "orth": i != 3} for i, p in enumerate(weights)]
        if several_groups:
            cls(groups, lr=0.1).step()
        else:
            cls(weights, lr=0.1).step()
    for p, q in zip(shared, apart, strict=True):
        assert p.any()
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("components", [1, 2])
def test_one_gradient_of_two_parameters_with_matrices_of_their_own(components):
    gradient = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    raw = gradient.clone()
    weights = [nn.Parameter(torch.zeros(4, 6)) for _ in range(3)]
    for weight in weights:
        weight.grad = gradient
    groups = [
        {"params": weights[:1]},
        {"params": weights[1:2], "orth_components": components},
        {"params": weights[2:], "orth": False},
    ]
    OrthSGD(groups, lr=1.0).step()
    torch.testing.assert_close(-weights[0].detach(), nearest_orthonormal(raw).float())
    halves = nearest_orthonormal(raw.view(components, 4 // components, 6)).view(4, 6).float()
    torch.testing.assert_close(-weights[1].detach(), halves)
    torch.testing.assert_close(-weights[2].detach(), raw)


def test_a_gradient_that_is_the_parameter_itself():
    """Gradient of half its square; written in place it would change the parameter."""
    weight = nn.Parameter(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)))
    before = weight.detach().clone()
    weight.grad = weight.detach()
    OrthSGD([weight], lr=0.1).step()
    expected = before - 0.1 * nearest_orthonormal(before).float()
    torch.testing.assert_close(weight.detach(), expected)


def test_a_parameter_that_is_listed_twice_is_replaced_once():
    weight = nn.Parameter(torch.zeros(3, 4))
    weight.grad = torch.diag(torch.tensor([5.0, 2.0, 1.0])) @ torch.eye(3, 4)
    orthonormalise_([weight, weight])
    torch.testing.assert_close(weight.grad, torch.eye(3, 4))


@pytest.mark.parametrize("make", [channels_last, strided, transposed])
def test_gradients_with_memory_of_their_own_stay_where_they_are(make):
    weight = nn.Parameter(torch.ones(4, 3, 2, 2))
    gradient = weight.grad = make(weight)
    OrthSGD([weight], lr=0.1).step()
    assert weight.grad is gradient
    assert torch.linalg.svdvals(gradient.reshape(4, -1)).allclose(torch.ones(4), atol=1e-4)


def test_gradients_side_by_side_in_a_buffer_stay_there():
    """As DistributedDataParallel's buckets hold them."""
    buffer = torch.randn(24, generator=torch.Generator().manual_seed(0))
    weights = [nn.Parameter(torch.zeros(3, 4)) for _ in range(2)]
    for i, weight in enumerate(weights):
        weight.grad = buffer[12 * i : 12 * i + 12].view(3, 4)
    expected = nearest_orthonormal(buffer.view(2, 3, 4)).float()
    OrthSGD(weights, lr=0.1).step()
    torch.testing.assert_close(buffer.view(2, 3, 4), expected)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 2, 3, 3)], ids=str)
def test_gradients_without_entries_are_no_matter(shape):
    weights = [nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(2, 3))]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    OrthSGD(weights, lr=0.1).step()
    torch.testing.assert_close(weights[1].detach(), torch.full((2, 3), -0.1 / 6**0.5))


def test_a_copy_follows_the_memory_order_of_the_parameter():
    weight = nn.Parameter(torch.ones(4, 3, 2, 2).to(memory_format=torch.channels_last))
    weight.grad = sum_gradient_of_one_number(weight)
    separate_gradients([weight])
    assert weight.grad.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(weight.grad, torch.ones(4, 3, 2, 2))


def sum_gradient_of_one_number(weight):
    return torch.ones(()).expand(weight.shape)


def test_training_goes_on_after_an_expanded_gradient():
    model = nn.Linear(4, 3)
    plain = copy.deepcopy(model)
    for each in (model, plain):
        optimizer = OrthSGD(each.parameters(), lr=0.1, momentum=0.9)
        for step in range(4):
            optimizer.zero_grad(set_to_none=step % 2 == 0)
            gradient = torch.full((), 1.0 + step).expand(3, 4)
            each.weight.grad = gradient if each is model else gradient.clone()
            each.bias.grad = torch.ones(3)
            optimizer.step()
    torch.testing.assert_close(model.weight, plain.weight)
    torch.testing.assert_close(model.bias, plain.bias)
