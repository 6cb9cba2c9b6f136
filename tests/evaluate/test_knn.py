import math

import pytest
import torch

from sslortho.evaluate import PRESETS, NeighbourSearch, knn_accuracy, knn_predict, vote
from sslortho.evaluate import knn as knn_module
from sslortho.evaluate import neighbours as search_module
from sslortho.evaluate.neighbours import EMPTY, from_keys, to_keys


def brute_force(bank, labels, queries, k, temperature):
    """One query, one neighbour at a time."""
    predictions = []
    for query in queries.tolist():
        similarities = []
        for row, label in zip(bank.tolist(), labels.tolist(), strict=True):
            dot = sum(a * b for a, b in zip(query, row, strict=True))
            norms = math.dist(query, [0] * len(query)) * math.dist(row, [0] * len(row))
            similarities.append((dot / norms, label))
        votes = {}
        for similarity, label in sorted(similarities, reverse=True)[:k]:
            votes[label] = votes.get(label, 0.0) + math.exp(similarity / temperature)
        predictions.append(max(votes, key=lambda label: votes[label]))
    return torch.tensor(predictions)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (7, 0.07), (20, 0.5), (500, 1.0)])
def test_prediction_equals_brute_force_vote(monkeypatch, k, temperature):
    # a block of two queries, a bank in batches; the last of each are short
    for module in (knn_module, search_module):
        monkeypatch.setattr(module, "BLOCK", 30)
    monkeypatch.setattr(knn_module, "BANK_BATCH", 12)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (80,), generator=generator)
    centres = torch.randn(4, 6, generator=generator)
    bank = centres[labels] + torch.randn(80, 6, generator=generator)
    queries = torch.randn(30, 6, generator=generator)
    expected = brute_force(bank, labels, queries, k, temperature)
    assert torch.equal(knn_predict(bank, labels, queries, k, temperature), expected)


def test_a_low_temperature_is_the_nearest_neighbour():
    generator = torch.Generator().manual_seed(2)
    bank, queries = torch.randn(60, 4, generator=generator), torch.randn(20, 4, generator=generator)
    labels = torch.arange(60) % 6
    nearest = knn_predict(bank, labels, queries, k=1)
    assert torch.equal(knn_predict(bank, labels, queries, k=20, temperature=1e-5), nearest)


def test_a_bank_predicts_its_own_labels_with_one_neighbour():
    bank = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(50) % 5
    assert torch.equal(knn_predict(bank, labels, 3 * bank, k=1), labels)


@pytest.mark.parametrize(
    ("k", "temperature", "words"),
    [
        (0, 0.1, "k=0 must be 1 or more"),
        (2.5, 0.1, "k=2.5 must be 1 or more, and a whole number"),
        (5, 0.0, "temperature=0.0 must be above 0"),
        (5, float("nan"), "temperature=nan must be above 0"),
    ],
)
def test_bad_options_are_named(k, temperature, words):
    with pytest.raises(ValueError, match=words):
        knn_predict(torch.ones(3, 2), torch.zeros(3).long(), torch.ones(1, 2), k, temperature)


def test_features_without_a_dimension():
    with pytest.raises(ValueError, match=r"\(1, 0\) have no dimension"):
        knn_predict(torch.ones(3, 0), torch.zeros(3).long(), torch.ones(1, 0))


@pytest.mark.slow
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_classes_are_ranked_as_lightly_ranks_them(preset):
    from lightly.utils import benchmarking

    k, temperature = PRESETS[preset]
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 7, (300,), generator=generator)
    bank = torch.randn(7, 12, generator=generator)[labels] + torch.randn(
        300, 12, generator=generator
    )
    queries = torch.randn(50, 12, generator=generator)
    unit = torch.nn.functional.normalize
    ranked = benchmarking.knn_predict(
        unit(queries, dim=1), unit(bank, dim=1).mT, labels, 7, knn_k=k, knn_t=temperature
    )
    assert torch.equal(knn_predict(bank, labels, queries, k, temperature), ranked[:, 0])
    search = NeighbourSearch(queries, k)
    search.add(bank)
    similarities, neighbours = search.result()
    scores = vote(similarities, labels[neighbours], 7, temperature)
    for row, ours in zip(ranked.tolist(), scores.tolist(), strict=True):
        seen = [c for c in row if ours[c] > 0]  # classes without a neighbour are in any order
        assert seen == sorted(seen, key=lambda c: -ours[c])
    figures = knn_accuracy(similarities, labels[neighbours], labels[:50], 7, temperature)
    hits = ranked[:, :5] == labels[:50, None]
    assert figures["top1"] == pytest.approx(100 * float(hits[:, 0].double().mean()))
    if (scores > 0).sum(dim=1).min() >= 5:
        assert figures["top5"] == pytest.approx(100 * float(hits.any(dim=1).double().mean()))


def test_keys_are_in_the_order_of_similarity_then_index_and_hold_both():
    values = torch.tensor([1.0, -1.0, 0.0, 1e-45, -1e-45, 0.5, -0.5, 0.1, -1.0000001, 1.0000001])
    values = values.repeat(4)
    indices = torch.tensor([0, 1, 2**20, 2**32 - 1]).repeat_interleave(10)
    keys = to_keys(values, indices)
    expected = sorted(range(40), key=lambda i: (-values[i].item(), indices[i].item()))
    assert keys.argsort(descending=True).tolist() == expected
    similarities, found = from_keys(keys)
    assert torch.equal(similarities, values)
    assert torch.equal(found, indices)
    assert keys.min() > EMPTY
    assert to_keys(torch.tensor(-0.0), torch.tensor(3)) == to_keys(
        torch.tensor(0.0), torch.tensor(3)
    )
    # moving an index up is a subtraction
    assert torch.equal(keys[:30] - 1000, to_keys(values[:30], indices[:30] + 1000))


@pytest.mark.parametrize("block", [1, 50, 2**22])
@pytest.mark.parametrize("k", [1, 5, 23, 60])
def test_neighbours_are_those_of_a_sort_and_equal_ones_go_by_index(monkeypatch, k, block):
    for module in (knn_module, search_module):
        monkeypatch.setattr(module, "BLOCK", block)
    generator = torch.Generator().manual_seed(4)
    # of few values, so that cosines are exact and many are equal
    bank = torch.eye(4)[torch.randint(0, 4, (40,), generator=generator)]
    bank[10:20] = -bank[10:20]
    queries = torch.eye(4)[:3] * torch.tensor([[1.0], [2.0], [-3.0]])
    search = NeighbourSearch(queries, k)
    for part in bank.split(9):
        search.add(part)
    similarities, indices = search.result()
    exact = (torch.sign(queries) @ bank.mT).tolist()
    expected = [sorted(range(40), key=lambda i: (-row[i], i))[:k] for row in exact]
    assert indices.tolist() == expected
    assert similarities.tolist() == [
        [row[i] for i in best] for row, best in zip(exact, expected, strict=True)
    ]


def test_a_vote_is_the_published_sum():
    similarities = torch.tensor([[0.9, 0.8, 0.8, -0.3], [0.2, 0.2, 0.1, 0.0]])
    labels = torch.tensor([[2, 0, 0, 1], [1, 1, 0, 2]])
    scores = vote(similarities, labels, 4, 0.5)
    assert scores.dtype == torch.float64
    for row, (cosines, classes) in enumerate(
        zip(similarities.tolist(), labels.tolist(), strict=True)
    ):
        sums = [0.0] * 4
        for cosine, label in zip(cosines, classes, strict=True):
            sums[label] += math.exp(cosine / 0.5)
        ratio = [value / math.exp(cosines[0] / 0.5) for value in sums]
        assert scores[row].tolist() == pytest.approx(ratio, rel=1e-12)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_vote_of_an_image_without_a_class_is_refused(label):
    labels = torch.tensor([[0, label]])
    with pytest.raises(ValueError, match=r"expected 0 to 2"):
        vote(torch.tensor([[1.0, 0.5]]), labels, 3, 0.1)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_features_that_are_not_finite_have_no_neighbours(value):
    bad = torch.ones(5, 3)
    bad[[1, 4], 0] = value
    with pytest.raises(ValueError, match="2 images are not finite"):
        NeighbourSearch(bad, 2)
    search = NeighbourSearch(torch.ones(2, 3), 2)
    search.add(bad)
    with pytest.raises(ValueError, match="2 images are not finite"):
        search.result()


def test_impossible_searches_are_refused():
    with pytest.raises(ValueError, match="k=0"):
        NeighbourSearch(torch.ones(2, 3), 0)
    search = NeighbourSearch(torch.ones(2, 3), 4)
    with pytest.raises(ValueError, match=r"\(5, 2\).*\(2, 3\)"):
        search.add(torch.ones(5, 2))
    with pytest.raises(ValueError, match="empty"):
        search.result()
