"""The matrix of each kind of layer, and parameters that are none."""

import pytest
import torch
from torch import nn

from conformance.checks import (
    check_first_step,
    distance,
    is_elementwise,
    require_orthogonal,
    set_gradients,
    spread_gradient,
    step_once,
    update_of,
)
from conformance.layers import MATRICES, VECTORS, Attention, LayerScale, Network, Tied, by_output


@pytest.mark.parametrize("case", MATRICES, ids=lambda case: case.name)
def test_matrix(adapter, case):
    check_first_step(adapter, case)


@pytest.mark.parametrize("shape", VECTORS.values(), ids=VECTORS)
def test_vector_is_no_matrix(adapter, shape):
    gradient = spread_gradient(shape)
    _, update = update_of(adapter.first, LayerScale(*shape), gradient.clone())
    _, larger = update_of(adapter.first, LayerScale(*shape), 10 * gradient)
    assert update.isfinite().all()
    assert update.any(), "it is not trained"
    assert is_elementwise(update, gradient)
    # a normalised vector has the gradient's direction, but not its size; Adam's sign has neither
    along = torch.cosine_similarity(update.flatten(), gradient.flatten().double(), dim=0) > 0.9999
    grows = larger.norm() > 3 * update.norm()
    if not adapter.layerwise:
        assert grows or not along, "it is orthonormalised as a matrix of one column or row"


def assert_not_orthonormalised(adapter, parameter, optimizer):
    gradient = spread_gradient(parameter.shape)
    _, update = step_once(optimizer, parameter, gradient.clone())
    assert update.any(), "it is not trained"
    assert is_elementwise(update, gradient), "the table is orthonormalised"


def test_embedding(adapter):
    model = Network(nn.Embedding(12, 16))
    set_gradients(model)
    assert_not_orthonormalised(adapter, model.body[0].weight, adapter.first.build(model, 1.0))


def test_tied_head(adapter):
    model = Tied()
    set_gradients(model)
    assert_not_orthonormalised(adapter, model.embedding.weight, adapter.first.build(model, 1.0))


def test_fused_qkv_in_parts(adapter):
    require_orthogonal(adapter)
    if adapter.split_qkv is None:
        pytest.fail("no option splits q, k and v")
    build, parts = adapter.split_qkv
    torch.manual_seed(0)
    attention = Attention()
    model = Network(attention)
    set_gradients(model)
    weight = attention.qkv.weight
    gradient = spread_gradient(weight.shape)
    before, update = step_once(build(model, 1.0), weight, gradient.clone())
    found = distance(adapter.first, by_output(parts), before, gradient, update)
    assert found <= adapter.accuracy
