import sys
import types
import warnings

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from sslortho.evaluate import projections
from sslortho.evaluate.projections import project_pca, project_tsne, project_umap


def spread_features(n, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator) * torch.linspace(3, 0.1, dim)
    return torch.randn(n, dim, generator=generator) @ mixing.mT + 5


@pytest.mark.parametrize(("n", "dim"), [(200, 12), (12, 200), (30, 30), (2, 5), (5, 2)])
def test_pca_equals_scikit_learns(monkeypatch, n, dim):
    monkeypatch.setattr(projections, "CHUNK", 7)  # several chunks, the last one short
    features = spread_features(n, dim)
    oracle = PCA(n_components=2, svd_solver="full").fit(features.double().numpy())
    points, shares = project_pca(features)
    expected = oracle.transform(features.double().numpy())
    signs = np.sign(oracle.components_[range(2), np.abs(oracle.components_).argmax(axis=1)])
    kept = 2 if min(n - 1, dim) >= 2 else 1  # two points lie on a line
    np.testing.assert_allclose(points[:, :kept], (expected * signs)[:, :kept], atol=1e-8)
    np.testing.assert_allclose(shares, oracle.explained_variance_ratio_, atol=1e-10)


def test_pca_of_either_matrix_is_the_same():
    features = spread_features(40, 39)
    wide = torch.cat([features, torch.zeros(40, 5)], dim=1)  # now more dimensions than samples
    for a, b in zip(project_pca(features), project_pca(wide), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


def test_pca_is_the_same_again_and_does_not_touch_the_random_numbers():
    state, features = torch.get_rng_state(), spread_features(50, 8)
    assert torch.equal(project_pca(features)[0], project_pca(features)[0])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("wide", [False, True])
def test_a_direction_that_is_not_there_has_no_share_and_no_coordinate(wide):
    line = torch.arange(9.0)[:, None] * torch.ones(1, 20 if wide else 3)
    points, shares = project_pca(line)
    torch.testing.assert_close(shares, torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert (points[:, 1] == 0).all()
    torch.testing.assert_close(
        points[:, 0], (torch.arange(9.0).double() - 4) * line.shape[1] ** 0.5
    )
    for same in (torch.ones(4, 3), torch.ones(1, 3), torch.ones(4, 1)):
        assert all((x == 0).all() for x in project_pca(same))


@pytest.mark.parametrize("features", [torch.ones(0, 3), torch.tensor([[1.0, torch.nan], [0, 0]])])
def test_pca_refuses_what_it_cannot_project(features):
    with pytest.raises(ValueError, match="features of shape"):
        project_pca(features)


@pytest.fixture
def fake_umap(monkeypatch):
    """umap-learn's place taken by what records how it is called."""
    calls = []

    class Fake:
        def __init__(self, **options):
            self.options = options

        def fit_transform(self, features):
            warnings.warn("noise", UserWarning, stacklevel=1)
            calls.append((self.options, features))
            return features[:, :2].astype(np.float64)

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Fake))
    return calls


def test_umap_gets_the_seed_and_the_features_and_its_warnings_are_not_shown(fake_umap, recwarn):
    features = torch.randn(30, 4).bfloat16()
    points, indices = project_umap(features, seed=5)
    (options, given), = fake_umap  # fmt: skip
    assert options["random_state"] == 5
    assert options["metric"] == "cosine"
    assert given.dtype == np.float32
    assert torch.equal(points, features[:, :2].float())
    assert indices.tolist() == list(range(30))
    assert not recwarn.list


def test_umap_gets_at_most_so_many_points_chosen_by_seed(fake_umap):
    features = torch.arange(2000.0).view(1000, 2)
    points, indices = project_umap(features, 0, most_points=100)
    assert torch.equal(points, features[indices])
    assert len(indices.unique()) == 100
    assert (indices.diff() > 0).all()
    # even: no tenth of the set is left out, nor taken whole
    assert all(1 <= count <= 30 for count in torch.histc(indices.float(), 10, 0, 999))
    assert torch.equal(indices, project_umap(features, 0, most_points=100)[1])
    assert not torch.equal(indices, project_umap(features, 1, most_points=100)[1])


def test_without_umap_there_is_no_such_map(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    assert project_umap(torch.randn(30, 4), 0) is None


def test_two_points_make_no_map(fake_umap):
    assert project_umap(torch.randn(2, 4), 0) is None
    assert fake_umap == []


def test_tsne_keeps_clusters_apart_and_is_repeatable():
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(3, 10)
    labels = torch.arange(60) % 3
    features = centres[labels] + 0.05 * torch.randn(60, 10, generator=generator)
    points, indices = project_tsne(features, seed=0)
    assert points.shape == (60, 2)
    assert torch.equal(indices, torch.arange(60))
    distances = torch.cdist(points, points).fill_diagonal_(torch.inf)
    assert torch.equal(labels[distances.argmin(dim=1)], labels)
    again, _ = project_tsne(features, seed=0)
    assert torch.equal(points, again)


def test_tsne_of_some_points_and_of_too_few():
    features = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    points, indices = project_tsne(features, seed=1, most_points=20)
    assert len(points) == len(indices) == 20
    assert torch.equal(indices, indices.unique())
    with pytest.raises(ValueError, match="too few for t-SNE"):
        project_tsne(features[:2], seed=0)
