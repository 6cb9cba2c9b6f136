import math

import numpy as np
import pytest
import scipy.stats
import torch
from matrices import nearest_orthonormal, with_singular_values
from torch import nn

from sslortho.optim import OrthSGD, param_groups
from sslortho.optim.monitor import effective_rank, measure_gradient, measure_gradients


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (4, 4)], ids=str)
@pytest.mark.parametrize("values", [[1, 1, 1, 1], [1, 0, 0, 0], [5, 2, 0.5, 0.1], [1, 1, 0, 0]])
def test_effective_rank_is_the_exponential_of_the_entropy(shape, values):
    matrix = with_singular_values(*shape, values)
    expected = math.exp(scipy.stats.entropy(values))
    assert effective_rank(matrix).item() == pytest.approx(expected, rel=1e-6)
    assert effective_rank(100 * matrix.float()).item() == pytest.approx(expected, rel=1e-3)


def test_effective_rank_of_zero_is_zero():
    assert effective_rank(torch.zeros(3, 2, 5)).tolist() == [0, 0, 0]


def test_cosine_and_distance_against_numpy():
    gradient = torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    matrix = gradient.flatten(1).double()
    factor = nearest_orthonormal(matrix)
    measured = measure_gradient(gradient)
    cosine = (matrix * factor).sum() / (matrix.norm() * factor.norm())
    assert measured["cosine"].item() == pytest.approx(cosine.item(), rel=1e-5)
    distance = np.linalg.norm((factor - matrix).numpy())
    assert measured["distance"].item() == pytest.approx(distance, rel=1e-5)


def test_an_orthonormal_gradient_is_its_own_factor():
    measured = measure_gradient(torch.eye(5)[:, [2, 0, 1, 4, 3]])
    assert measured["cosine"].item() == pytest.approx(1, abs=1e-6)
    assert measured["distance"].item() == pytest.approx(0, abs=1e-5)
    assert measured["effective_rank"].item() == pytest.approx(5, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e25, 1e37])
def test_scale_does_not_matter_but_for_the_distance(scale):
    gradient = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)) / 10
    measured, scaled = measure_gradient(gradient), measure_gradient(gradient * scale)
    for key in ("cosine", "effective_rank"):
        assert scaled[key].item() == pytest.approx(measured[key].item(), rel=1e-4)
    assert scaled["distance"].isfinite()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_nan(bad):
    measured = measure_gradient(torch.tensor([[1.0, bad], [0.0, 1.0]]))
    assert all(value.isnan() for value in measured.values())


def test_matrices_of_a_grouped_convolution_are_measured_one_by_one():
    blocks = torch.stack([with_singular_values(2, 3, [1, 1]), with_singular_values(2, 3, [1, 0])])
    measured = measure_gradient(blocks.reshape(4, 3), components=2)
    assert measured["effective_rank"].item() == pytest.approx(1.5)


def test_names_groups_and_gradients_that_are_left_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    optimizer = OrthSGD(param_groups(model, orth="conv"), lr=0.1)
    model(torch.randn(5, 2, 3, 3)).square().sum().backward()
    before = [p.grad.clone() for p in model.parameters()]
    figures = measure_gradients(optimizer.param_groups)
    assert sorted(figures) == ["cosine/0.weight", "distance/0.weight", "effective_rank/0.weight"]
    for p, gradient in zip(model.parameters(), before, strict=True):
        assert torch.equal(p.grad, gradient)


def test_a_plain_optimizer_and_missing_gradients():
    weight, unused = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2, 3))
    weight.grad = torch.zeros(2, 3)
    figures = measure_gradients(torch.optim.SGD([unused, weight], lr=1.0).param_groups)
    assert figures == {"cosine/0.1": 0, "distance/0.1": 0, "effective_rank/0.1": 0}
    assert measure_gradients([]) == {}
