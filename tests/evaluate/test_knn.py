import math

import pytest
import torch

from sslortho.evaluate import knn as knn_module
from sslortho.evaluate import knn_predict


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
    monkeypatch.setattr(knn_module, "CHUNK", 7)  # several chunks, the last one short
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


@pytest.mark.parametrize(("k", "temperature"), [(0, 0.1), (5, 0.0)])
def test_bad_options_are_named(k, temperature):
    with pytest.raises(ValueError, match=f"k={k} .*temperature={temperature}"):
        knn_predict(torch.ones(3, 2), torch.zeros(3).long(), torch.ones(1, 2), k, temperature)
