"""Faults that users reported, one test each, named by repository and number."""

import pytest
import torch
from torch import nn

from conformance.checks import (
    LEFT_OUT,
    distance,
    is_left_out,
    require_orthogonal,
    set_gradients,
    spread_gradient,
    update_of,
)
from conformance.layers import TALL, Case, LayerScale, Network, by_output
from conformance.test_promises import sizes


def test_pytorch_180561_takes_convolutions(adapter):
    """Convolutions are orthonormalised at all: 99.98 % of a ResNet-18's weights are such."""
    gradient = spread_gradient((8, 4, 3, 3))
    _, update = update_of(adapter.first, nn.Conv2d(4, 8, 3), gradient.clone())
    left_out = is_left_out(update, gradient)
    if left_out and not adapter.takes_convolutions:
        pytest.skip(LEFT_OUT)
    assert not left_out, LEFT_OUT


@pytest.mark.parametrize("shape", [(8, 4, 3), (64, 32, 3), (192, 3, 16)], ids=str)
def test_timm_2791_size_of_convolutions(adapter, shape):
    """The sizes of updates in the report: 5.7, 45 and 24 times too small there."""
    outputs, inputs, kernel = shape
    case = Case("", lambda: nn.Conv2d(inputs, outputs, kernel))
    ratios = sizes(adapter.first, case)
    if ratios is None:
        pytest.skip(LEFT_OUT)
    assert ratios[0] == pytest.approx(1, abs=min(adapter.accuracy, 0.3))


def check_as_dense(option, case):
    """A convolution's update is that of a dense layer with the same matrix; True if left out.

    Needs no reference, so that it sees a scale that is a few per cent off in any approximation.
    """
    layer = case.layer()
    gradient = spread_gradient(layer.weight.shape)
    rows, columns = layer.weight.flatten(1).shape
    dense = nn.Linear(columns, rows)
    # LARS's ratio depends on the weights
    nn.init.ones_(layer.weight)
    nn.init.ones_(dense.weight)
    _, update = update_of(option, layer, gradient.clone())
    if is_left_out(update, gradient):
        return True
    _, expected = update_of(option, dense, gradient.flatten(1).clone())
    ratio = (update.norm() / expected.norm()).item()
    assert ratio == pytest.approx(1, abs=0.03), f"{case.name}: {ratio:.2f} of the right size"
    away = (update.flatten(1) - expected).norm() / expected.norm()
    assert away < 0.05, f"{case.name}: another matrix"
    return False


def test_ultralytics_25846_scale_of_flattened_matrix(adapter):
    """Tall matrices and kernels that are not square; too small by up to 5.3 there."""
    left_out = [check_as_dense(adapter.first, case) for case in TALL if case.name[1] != "-"]
    if all(left_out):
        pytest.skip(LEFT_OUT)


def test_kozistr_372_rate_of_convolutions(adapter):
    """1-D, 2-D and 3-D convolutions with every scale on offer."""
    left_out = [
        check_as_dense(option, case) for option in adapter.options.values() for case in TALL
    ]
    if all(left_out):
        pytest.skip(LEFT_OUT)


def test_ultralytics_25447_layer_scale_steps(adapter):
    """A gain of shape (C, 1, 1), beside convolutions, crashed the step there."""
    model = Network(nn.Conv2d(4, 8, 3), LayerScale(8, 1, 1), nn.Conv1d(4, 8, 3))
    set_gradients(model)
    gain = model.body[1].weight
    before = gain.detach().clone()
    adapter.first.build(model, 0.1).step()
    assert gain.isfinite().all()
    assert not torch.equal(gain, before)


@pytest.mark.parametrize(
    "make", [lambda: nn.Linear(20, 8), lambda: nn.Conv2d(4, 8, 3)], ids=["dense", "convolution"]
)
def test_dion_121_equal_shapes(adapter, make):
    """Layers of equal shape are orthonormalised apart from each other."""
    require_orthogonal(adapter)
    torch.manual_seed(0)
    model = Network(make(), make(), make())
    set_gradients(model)
    weights = [layer.weight for layer in model.body]
    gradients = [weight.grad.clone() for weight in weights]
    before = [weight.detach().clone() for weight in weights]
    adapter.first.build(model, 1.0).step()
    for weight, old, gradient in zip(weights, before, gradients, strict=True):
        update = old.double() - weight.detach().double()
        if is_left_out(update, gradient):
            pytest.skip(LEFT_OUT)
        found = distance(adapter.first, by_output(), old, gradient, update)
        assert found <= adapter.accuracy, f"{found:.2g} away from its own orthonormal matrix"
