"""Sizes, momentum and rates as the options promise them."""

import pytest
import torch
from torch import nn

from conformance.checks import (
    LEFT_OUT,
    is_left_out,
    polar_bases,
    require_orthogonal,
    set_gradients,
    spectral_distance,
    spread_gradient,
    step_once,
    update_of,
)
from conformance.layers import MATRICES, TALL, Network
from conformance.width import best_rates


def sizes(option, case):
    """Root mean square of an update over the promised one, for each way to read the layer."""
    layer = case.layer()
    gradient = spread_gradient(layer.weight.shape)
    before, update = update_of(option, layer, gradient.clone())
    if is_left_out(update, gradient):
        return None
    ratios = []
    for split in case.splits:
        polars = [u @ vt for u, vt in map(polar_bases, split(gradient))]
        norm = torch.stack([polar.norm() for polar in polars]).norm()
        ratios.append((update.norm() / norm / option.scale(before, polars)).item())
    return ratios


def test_size_of_every_shape(adapter):
    wrong, seen = [], 0
    for name, option in adapter.options.items():
        for case in (*MATRICES, *TALL):
            ratios = sizes(option, case)
            seen += ratios is not None
            if ratios and not any(abs(r - 1) <= min(adapter.accuracy, 0.3) for r in ratios):
                wrong.append(f"{case.name} at {name}: {ratios[0]:.2f}")
    if not seen:
        pytest.skip(LEFT_OUT)
    assert not wrong, "size over the promised one: " + "; ".join(wrong)


def test_order_of_momentum(adapter):
    require_orthogonal(adapter)
    torch.manual_seed(0)
    model = Network(nn.Linear(20, 8))
    set_gradients(model)
    weight = model.body[0].weight
    optimizer = adapter.first.build(model, 1.0)
    one, two = spread_gradient((8, 20), seed=1), spread_gradient((8, 20), seed=2)
    first, _ = step_once(optimizer, weight, one.clone())
    set_gradients(model)
    before, update = step_once(optimizer, weight, two.clone())
    (u1, vt1), (u2, vt2) = polar_bases(one), polar_bases(two)
    if adapter.order == "after":
        velocity = adapter.momentum * adapter.first.scale(first, [u1 @ vt1]) * u1 @ vt1
        velocity = velocity + adapter.first.scale(before, [u2 @ vt2]) * u2 @ vt2
        size = torch.linalg.matrix_norm(velocity, ord=2)
        found = (torch.linalg.matrix_norm(update - velocity, ord=2) / size).item()
    else:
        velocity = adapter.momentum * one + two
        if adapter.nesterov:
            velocity = two + adapter.momentum * velocity
        u, vt = polar_bases(velocity)
        found = spectral_distance(update / adapter.first.scale(before, [u @ vt]), u, vt)
    assert found <= adapter.accuracy


@pytest.mark.slow
def test_rate_transfer(adapter):
    if adapter.transfer is None:
        pytest.skip("promises no transfer")
    rates = best_rates(adapter.options[adapter.transfer], widths=(64, 128, 256))
    assert max(rates) <= 2 * min(rates), f"best rates of widths 1, 2, 4: {rates}"
