import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from helpers.matrices import nearest_orthonormal, with_singular_values
from torch import nn

from sslortho.optim import OrthSGD, create_optimizer, param_groups
from sslortho.optim.components import to_matrices
from sslortho.optim.monitor import (
    count_disabled,
    effective_rank,
    filter_cosine,
    measure_gradient,
    measure_gradients,
    measure_layers,
    state_bytes,
)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (4, 4)], ids=str)
@pytest.mark.parametrize("values", [[1, 1, 1, 1], [1, 0, 0, 0], [5, 2, 0.5, 0.1], [1, 1, 0, 0]])
def test_effective_rank_is_the_exponential_of_the_entropy(shape, values):
    matrix = with_singular_values(*shape, values)
    expected = math.exp(scipy.stats.entropy(values))
    assert effective_rank(matrix).item() == pytest.approx(expected, rel=1e-6)
    assert effective_rank(100 * matrix.float()).item() == pytest.approx(expected, rel=1e-3)


def test_effective_rank_of_zero_is_zero():
    assert effective_rank(torch.zeros(3, 2, 5)).tolist() == [0, 0, 0]


def test_cosine_distance_and_norm_against_numpy():
    gradient = torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    matrix = gradient.flatten(1).double()
    factor = nearest_orthonormal(matrix)
    measured = measure_gradient(gradient)
    cosine = (matrix * factor).sum() / (matrix.norm() * factor.norm())
    assert measured["cosine"].item() == pytest.approx(cosine.item(), rel=1e-5)
    distance = np.linalg.norm((factor - matrix).numpy())
    assert measured["distance"].item() == pytest.approx(distance, rel=1e-5)
    norm = np.linalg.norm(matrix.numpy())
    assert measured["gradient_norm"].item() == pytest.approx(norm, rel=1e-6)


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
    assert sorted(figures) == ["cosine/0", "distance/0", "effective_rank/0", "gradient_norm/0"]
    for p, gradient in zip(model.parameters(), before, strict=True):
        assert torch.equal(p.grad, gradient)


def test_a_plain_optimizer_and_missing_gradients():
    weight, unused = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2, 3))
    weight.grad = torch.zeros(2, 3)
    figures = measure_gradients(torch.optim.SGD([unused, weight], lr=1.0).param_groups)
    names = ("cosine/0.1", "distance/0.1", "effective_rank/0.1", "gradient_norm/0.1")
    assert figures == dict.fromkeys(names, 0)
    assert measure_gradients([]) == {}


def test_zero_and_tiny_gradients():
    gradient = torch.tensor([[0.0, -0.0, 1e-30, -1e-4], [1e-4, 1.01e-4, -2.0, float("nan")]])
    counted = {name: value.item() for name, value in count_disabled(gradient).items()}
    assert counted == {"zero_gradients": 2, "tiny_gradients": 5}


def literal_filter_cosine(matrices):
    values = [
        torch.cosine_similarity(a, b, dim=0).abs().item()
        for matrix in matrices
        for a, b in itertools.combinations(matrix, 2)
    ]
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("shape", "components", "view"),
    [
        ((6, 3, 2, 2), 1, "rows"),
        ((5, 4), 1, "rows"),
        ((6, 2, 3, 3), 3, "rows"),
        ((4, 3, 2, 2), 2, "transposed"),
        ((5, 8), 4, "columns"),
    ],
)
def test_filter_cosine_is_the_literal_one(shape, components, view):
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) + 0.3
    expected = literal_filter_cosine(to_matrices(weight, components, view))
    assert filter_cosine(weight, components, view).item() == pytest.approx(expected, rel=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        measured = filter_cosine(weight.bfloat16(), components, view)
    rounded = literal_filter_cosine(to_matrices(weight.bfloat16().float(), components, view))
    assert measured.item() == pytest.approx(rounded, rel=1e-5)


def test_filter_cosine_of_known_filters():
    assert filter_cosine(with_singular_values(4, 9, [1, 1, 1, 1])).item() == pytest.approx(
        0, abs=1e-6
    )
    assert filter_cosine(torch.tensor([[1.0, 2.0], [-2.0, -4.0]])).item() == pytest.approx(1)
    # of three pairs those with the zero filter count as 0
    assert filter_cosine(torch.tensor([[1.0], [1.0], [0.0]])).item() == pytest.approx(1 / 3)
    assert filter_cosine(torch.ones(4, 1, 3, 3), components=4) is None  # depthwise


@pytest.mark.parametrize("cls", [OrthSGD, torch.optim.SGD])
def test_layers_are_measured_whatever_the_optimizer(cls):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3))
    groups = param_groups(model, orth="conv")
    optimizer = cls(groups, lr=0.1)
    model(torch.randn(5, 2, 3, 3)).square().sum().backward()
    before = [p.grad.clone() for p in model.parameters()]
    figures = measure_layers(optimizer.param_groups)
    kinds = {"cosine", "distance", "effective_rank", "gradient_norm", "filter_cosine"}
    kinds |= {"zero_gradients", "tiny_gradients"}
    assert set(figures) == {f"{kind}/{name}" for kind in kinds for name in "03"}
    for name, layer in model.named_children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            measured = measure_gradient(layer.weight.grad)
            assert {key: figures[f"{key}/{name}"] for key in measured} == measured
            matrix = [layer.weight.detach().flatten(1)]
            assert figures[f"filter_cosine/{name}"] == pytest.approx(literal_filter_cosine(matrix))
    for p, gradient in zip(model.parameters(), before, strict=True):
        assert torch.equal(p.grad, gradient)


def test_a_layer_without_a_gradient_still_has_filters():
    weight = nn.Parameter(torch.eye(2))
    assert measure_layers([{"params": [weight], "names": ["a.weight"]}]) == {"filter_cosine/a": 0}


@pytest.mark.parametrize(
    ("name", "options", "copies"),
    [
        ("sgd", {"momentum": 0.0}, 0),
        ("orth_sgd", {"momentum": 0.0}, 0),
        ("norm_sgd", {"momentum": 0.0}, 0),
        ("lars", {"momentum": 0.0}, 0),
        ("orth_lars", {"momentum": 0.0}, 0),
        ("sgd", {"momentum": 0.9}, 1),
        ("orth_sgd", {"momentum": 0.9}, 1),
        ("orth_lars", {"momentum": 0.9}, 1),
        ("adam", {}, 2),
        ("orth_adam", {}, 2),
    ],
)
def test_an_optimizer_keeps_the_memory_that_the_paper_counts(name, options, copies):
    """2n, 3n and 4n with parameters and gradients (section 3.1.2)."""
    model = nn.Sequential(nn.Linear(7, 11), nn.Linear(11, 3))
    optimizer = create_optimizer(name, model.parameters(), lr=0.01, **options)
    assert state_bytes(optimizer) == 0
    model(torch.ones(2, 7)).square().sum().backward()
    optimizer.step()
    numbers = 7 * 11 + 11 + 11 * 3 + 3
    counters = 4 if "adam" in name else 0  # Adam's step counts, one a tensor
    assert state_bytes(optimizer) == 4 * (copies * numbers + counters)
