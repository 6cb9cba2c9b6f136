"""Alignment, uniformity and ranking of two views, against literal forms."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from sslortho.evaluate import alignment, pair_ranking, uniformity


def _pairs(noise, n=30, dim=6):
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(n, dim, generator=generator)
    return first, first + noise * torch.randn(n, dim, generator=generator)


def test_they_are_the_formulas_of_the_paper():
    """Equations of arXiv 2005.10242, section 4.1, one pair at a time."""
    first, second = (x.double().numpy() for x in _pairs(0.5))
    x, y = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (first, second))
    near = np.mean([np.sum((a - b) ** 2) for a, b in zip(x, y, strict=True)])
    potentials = [
        math.exp(-2 * np.sum((x[i] - x[j]) ** 2)) for i in range(len(x)) for j in range(i)
    ]
    assert alignment(*_pairs(0.5)) == pytest.approx(near)
    assert uniformity(_pairs(0.5)[0]) == pytest.approx(math.log(np.mean(potentials)))


def test_opposite_views_are_farthest_and_one_point_has_no_uniformity():
    first = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    assert alignment(first, first) == pytest.approx(0, abs=1e-12)
    assert alignment(first, -first) == pytest.approx(4)
    assert uniformity(torch.ones(8, 3)) == pytest.approx(0, abs=1e-12)
    # two points, opposite: the only pair is at distance 2
    assert uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(-8)


def test_ranking_is_the_area_under_the_roc_curve_of_scikit_learn():
    first, second = _pairs(1.5)
    cosine = torch.nn.functional.cosine_similarity(first[:, None], second[None], dim=2)
    own = np.eye(len(first))
    areas = [roc_auc_score(own[i], cosine[i].numpy()) for i in range(len(first))]
    assert 60 < 100 * np.mean(areas) < 99
    assert pair_ranking(first, second) == pytest.approx(100 * np.mean(areas))


def test_ranking_is_by_chance_for_one_point_and_whole_for_equal_views():
    first, _ = _pairs(0)
    assert pair_ranking(first, first) == 100
    assert pair_ranking(torch.ones(9, 4), torch.ones(9, 4)) == 50
    assert pair_ranking(3 * first, 0.1 * first) == 100


def test_wrong_features_are_an_error_and_one_image_has_no_figures():
    with pytest.raises(ValueError, match="differ"):
        alignment(torch.ones(3, 2), torch.ones(4, 2))
    assert math.isnan(uniformity(torch.ones(1, 2)))
    assert math.isnan(pair_ranking(torch.ones(1, 2), torch.ones(1, 2)))
    with pytest.raises(ValueError, match="not finite"):
        pair_ranking(torch.full((3, 2), math.nan), torch.ones(3, 2))
