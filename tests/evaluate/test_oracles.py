"""Every figure of an evaluation beside that of another library, or of a literal loop; ties included."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import scipy.stats
import torch
from sklearn import metrics, preprocessing
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from sslortho.evaluate import (
    AccuracyCounts,
    LogisticRegression,
    NeighbourSearch,
    feature_std,
    knn_accuracy,
    knn_predict,
    rankme,
    select_l2,
    vote,
)
from sslortho.evaluate.frozen import accuracy
from sslortho.evaluate.knn import rank_votes
from sslortho.evaluate.neighbours import unit_rows
from sslortho.evaluate.pictures import most_confused
from sslortho.evaluate.projections import project_pca


def draw(count, dim=6, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    return centres[labels] + torch.randn(count, dim, generator=generator), labels


def top_k(scores, labels, k):
    """Percentage of rows whose label is among the first k of the classes with a score above 0."""
    hits = 0
    for row, label in zip(scores, labels, strict=True):
        order = sorted((c for c in range(len(row)) if row[c] > 0), key=lambda c: (-row[c], c))
        hits += int(label in order[:k])
    return 100 * hits / len(labels)


def search(bank, queries, k):
    found = NeighbourSearch(queries, k)
    found.add(bank)
    return found.result()


def test_classes_without_a_vote_are_no_prediction():
    figures = knn_accuracy(torch.ones(9, 20), torch.full((9, 20), 9), torch.arange(9), 10, 0.07)
    assert figures == {"top1": 0.0, "top5": 0.0}
    figures = knn_accuracy(torch.ones(10, 20), torch.full((10, 20), 9), torch.arange(10), 10, 0.07)
    assert figures == {"top1": 10.0, "top5": 10.0}


@pytest.mark.parametrize("doubled", [False, True], ids=["apart", "ties"])
@pytest.mark.parametrize(("classes", "k"), [(4, 1), (4, 9), (30, 3), (30, 60), (1, 5)])
def test_votes_are_scikit_learns(classes, k, doubled):
    """With ties: every image of the bank is there twice, in two classes, so their votes are equal."""
    bank, labels = draw(60, classes=classes)
    if doubled:
        bank, labels = bank.repeat(2, 1), torch.cat([labels, (labels + 1) % classes])
        k *= 2
    queries, truth = draw(40, classes=classes, seed=1)
    temperature = 0.3
    peer = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / temperature)
    ).fit(bank.double().numpy(), labels.numpy())
    shares = np.zeros((len(queries), classes))
    # rounded, for what ties exactly here does so there up to rounding
    shares[:, peer.classes_] = peer.predict_proba(queries.double().numpy()).round(5)
    similarities, neighbours = search(bank, queries, k)
    scores = vote(similarities, labels[neighbours], classes, temperature)
    normalised = scores / scores.sum(dim=1, keepdim=True)
    np.testing.assert_allclose(normalised.numpy(), shares, atol=2e-5)
    figures = knn_accuracy(similarities, labels[neighbours], truth, classes, temperature)
    assert figures["top1"] == pytest.approx(top_k(shares, truth.tolist(), 1))
    assert figures["top5"] == pytest.approx(top_k(shares, truth.tolist(), 5))
    predictions = knn_predict(bank, labels, queries, k, temperature)
    assert predictions.tolist() == shares.argmax(axis=1).tolist()


@pytest.mark.parametrize("temperature", [0.07, 1e-3, 1e-5])
def test_votes_that_underflow_keep_their_order_and_still_count(temperature):
    generator = torch.Generator().manual_seed(0)
    similarities = torch.rand(50, 12, generator=generator).sort(dim=1, descending=True).values
    labels = torch.randint(0, 9, (50, 12), generator=generator)
    truth = torch.randint(0, 9, (50,), generator=generator)
    ranked = rank_votes(similarities, labels, 9, temperature)
    expected = np.full((50, 9), -np.inf)
    exponents = similarities.double().numpy() / temperature
    for row, column in np.ndindex(50, 9):
        own = exponents[row][(labels[row] == column).numpy()]
        if len(own):
            expected[row, column] = scipy.special.logsumexp(own)
    order = [sorted(range(9), key=lambda c, r=row: (-r[c], c)) for row in expected]
    assert ranked.sort(dim=1, descending=True, stable=True).indices.tolist() == order
    assert torch.equal(ranked == -torch.inf, torch.from_numpy(np.isneginf(expected)))
    figures = knn_accuracy(similarities, labels, truth, 9, temperature)
    for k in (1, 5):
        hits = [
            t in [c for c in best if math.isfinite(row[c])][:k]
            for t, best, row in zip(truth.tolist(), order, expected, strict=True)
        ]
        assert figures[f"top{k}"] == pytest.approx(100 * np.mean(hits))


def test_the_lowest_temperature_still_has_voters():
    similarities, labels = torch.tensor([[0.9, 0.8, 0.1]]), torch.tensor([[2, 0, 1]])
    for truth in (0, 1, 2):
        figures = knn_accuracy(similarities, labels, torch.tensor([truth]), 4, 1e-308)
        assert figures == {"top1": 100.0 * (truth == 2), "top5": 100.0}
    assert knn_accuracy(similarities, labels, torch.tensor([3]), 4, 1e-308)["top5"] == 0


def test_the_order_of_queries_and_of_the_bank_does_not_matter():
    bank, labels = draw(50, classes=12)
    queries, truth = draw(30, classes=12, seed=1)
    generator = torch.Generator().manual_seed(2)
    figures = []
    for _ in range(3):
        similarities, neighbours = search(bank, queries, 9)
        figures.append(knn_accuracy(similarities, labels[neighbours], truth, 12, 0.1))
        rows = torch.randperm(50, generator=generator)
        bank, labels = bank[rows], labels[rows]
        rows = torch.randperm(30, generator=generator)
        queries, truth = queries[rows], truth[rows]
    assert figures[0] == pytest.approx(figures[1])
    assert figures[0] == pytest.approx(figures[2])


@pytest.mark.parametrize(("images", "k"), [(1, 1), (1, 20), (3, 20), (40, 7)])
def test_neighbours_are_scikit_learns(images, k):
    bank, _ = draw(images)
    queries, _ = draw(1, seed=1)
    similarities, neighbours = search(bank, queries, k)
    peer = NearestNeighbors(n_neighbors=min(k, images), metric="cosine", algorithm="brute")
    distances, indices = peer.fit(bank.double().numpy()).kneighbors(queries.double().numpy())
    assert neighbours.tolist() == indices.tolist()
    np.testing.assert_allclose(similarities.numpy(), 1 - distances, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-15, 1e18, 1e25, 1e37])
def test_cosines_do_not_depend_on_scale(scale):
    rows, _ = draw(20)
    rows[3] = 0
    scaled = rows * scale
    # scikit-learn takes rows below 1e-15 for zero
    expected = preprocessing.normalize(scaled.double().numpy() / scale)
    np.testing.assert_allclose(unit_rows(scaled).numpy(), expected, atol=1e-6)
    expected = preprocessing.normalize(rows.double().numpy())
    np.testing.assert_allclose(unit_rows(rows.double() * 1e-200).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(unit_rows(rows.double() * 1e200).numpy(), expected, atol=1e-6)


def test_ordinary_cosines_are_torchs_to_the_bit():
    rows, _ = draw(50, dim=37)
    assert torch.equal(unit_rows(rows), torch.nn.functional.normalize(rows, dim=1))


@pytest.mark.parametrize("levels", [2, 3, 1000], ids="{} levels".format)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_top_k_is_scikit_learns_ties_included(levels, dtype):
    """scikit-learn puts the higher class first among equals, so it gets the classes in reverse."""
    generator = torch.Generator().manual_seed(levels)
    scores = torch.randint(0, levels, (300, 12), generator=generator).to(dtype) / 8
    labels = torch.randint(0, 12, (300,), generator=generator)
    counts = AccuracyCounts()
    counts.add(scores, labels)
    figures = counts.percentages()
    for k in (1, 5):
        peer = metrics.top_k_accuracy_score(
            11 - labels.numpy(), scores.double().numpy()[:, ::-1], k=k, labels=range(12)
        )
        assert figures[f"top{k}"] == pytest.approx(100 * peer, rel=1e-12)


def test_five_classes_or_fewer_are_all_among_the_best_five():
    for classes in (1, 2, 5):
        counts = AccuracyCounts()
        counts.add(torch.zeros(10, classes), torch.arange(10) % classes)
        assert counts.percentages() == {"top1": 100 / classes, "top5": 100.0}


def test_candidates_are_all_that_counts():
    scores, labels = torch.tensor([[5.0, 1.0, math.nan], [5.0, 1.0, 2.0]]), torch.tensor([1, 0])
    candidates = torch.tensor([[False, True, False], [False, True, True]])
    counts = AccuracyCounts()
    counts.add(scores, labels, candidates)
    assert counts.percentages() == {"top1": 50.0, "top5": 50.0}
    counts.add(scores, labels, ~candidates)  # now what is not finite is a candidate
    with pytest.raises(ValueError, match="scores of 1 of 4 images"):
        counts.percentages()
    for wrong in (candidates[0], candidates.long(), candidates[:, :2]):
        with pytest.raises(ValueError, match=r"candidates must be bool \(2, 3\)"):
            counts.add(scores, labels, wrong)


def test_accuracy_is_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 3, (2, 77), generator=generator)
    assert accuracy(a, b) == pytest.approx(100 * metrics.accuracy_score(b.numpy(), a.numpy()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_collapse_is_scipys_and_numpys(dtype):
    features = (draw(60, dim=9)[0] * 200).to(dtype)  # sums of squares are beyond float16
    exact = features.double().numpy()
    # the paper adds 1e-7 to each share
    entropy = scipy.stats.entropy(scipy.linalg.svdvals(exact))
    assert rankme(features) == pytest.approx(math.exp(entropy), rel=1e-4)
    shares = scipy.linalg.svdvals(exact) / scipy.linalg.svdvals(exact).sum() + 1e-7
    assert rankme(features) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-9)
    spread = preprocessing.normalize(exact).std(axis=0).mean() * 3
    assert feature_std(features) == pytest.approx(spread, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e-14, 1e30])
def test_collapse_does_not_depend_on_scale(scale):
    features, _ = draw(60, dim=9)
    scaled = (features.double() * scale).float()
    assert feature_std(scaled) == pytest.approx(feature_std(features), rel=1e-6)
    assert rankme(scaled) == pytest.approx(rankme(features), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_features_of_half_precision_are_fitted_and_projected_in_float64(dtype):
    features, labels = draw(80)
    half = (features * 200).to(dtype)
    probe, exact = (LogisticRegression(x, labels, 1e-2) for x in (half, half.double()))
    assert torch.equal(probe.weight, exact.weight)
    assert torch.equal(probe.logits(half), exact.logits(half.double()))
    oracle = PCA(n_components=2, svd_solver="full").fit(half.double().numpy())
    np.testing.assert_allclose(project_pca(half)[1], oracle.explained_variance_ratio_, atol=1e-10)
    unit = preprocessing.normalize(half.double().numpy())
    similarities, _ = search(half, half, 80)
    expected = np.sort(unit @ unit.T, axis=1)[:, ::-1]
    np.testing.assert_allclose(similarities.numpy(), expected, atol=1e-6)


@pytest.mark.slow
def test_l2_is_chosen_of_half_precision_as_of_float64():
    features, labels = draw(80)
    half = features.bfloat16()
    with pytest.warns(UserWarning, match="end of the candidates"):
        chosen = [select_l2(x, labels, candidates=(1e2, 1e1)).trials for x in (half, half.double())]
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_probe_gives_no_class_to_features_that_are_not_finite(value):
    features, labels = draw(40)
    probe = LogisticRegression(features, labels)
    features[[2, 5], 1] = value
    with pytest.raises(ValueError, match="features of 2 images are not finite"):
        probe.predict(features)
    assert probe.predict(features[:0]).tolist() == []


def test_the_most_confused_are_those_of_a_literal_sort():
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randint(0, 4, (7, 7), generator=generator)  # of few values, so that shares tie
    matrix[4] = 0
    pairs = []
    for t, p in np.ndindex(7, 7):
        if t != p and matrix[t, p]:
            share = int(matrix[t, p]) / int(matrix[t].sum())
            pairs.append((-share, -int(matrix[t, p]), t, p))
    expected = [(str(t), str(p), -share) for share, _, t, p in sorted(pairs)]
    assert most_confused(matrix, (), 49) == expected
    assert most_confused(matrix, (), 5) == expected[:5]
