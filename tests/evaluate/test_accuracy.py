import math

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn

from sslortho.data import Batch
from sslortho.evaluate import AccuracyCounts, evaluate_classifier
from sslortho.evaluate import accuracy as accuracy_module


def logits_and_labels(count=200, classes=12):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (count,), generator=generator)
    scores = torch.randn(count, classes, generator=generator)
    scores[torch.arange(count), labels] += 1
    return scores, labels


@pytest.mark.parametrize("block", [1, 100, 2**23])
def test_figures_equal_scikit_learns(monkeypatch, block):
    monkeypatch.setattr(accuracy_module, "BLOCK", block)
    scores, labels = logits_and_labels()
    counts = AccuracyCounts(logits=True)
    for part, truth in zip(scores.split(64), labels.split(64), strict=True):
        counts.add(part, truth)
    figures = counts.percentages()
    for k in (1, 5):
        expected = metrics.top_k_accuracy_score(labels.numpy(), scores.numpy(), k=k)
        assert figures[f"top{k}"] == pytest.approx(100 * expected, rel=1e-12)
    p = np.exp(scores.double().numpy())
    expected = metrics.log_loss(labels.numpy(), p / p.sum(axis=1, keepdims=True))
    assert counts.mean_loss() == pytest.approx(expected, rel=1e-12)


def test_a_tie_goes_to_the_lower_class_so_that_it_never_flatters():
    scores = torch.zeros(10, 10)
    counts = AccuracyCounts()
    counts.add(scores, torch.arange(10))
    assert counts.percentages() == {"top1": 10.0, "top5": 50.0}
    # the same classes that a stable sort would name
    scores = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0, 2.0, 2.0]] * 7)
    order = scores[0].argsort(descending=True, stable=True).tolist()
    counts = AccuracyCounts()
    counts.add(scores, torch.arange(7))
    assert accuracy_module.true_class_rank(scores, torch.arange(7)).tolist() == [
        order.index(label) for label in range(7)
    ]
    assert counts.percentages()["top1"] == pytest.approx(100 / 7)


def test_the_loss_is_the_same_in_any_order_of_batches():
    scores, labels = logits_and_labels(1000)
    losses = set()
    for seed in range(5):
        counts = AccuracyCounts(logits=True)
        for i in torch.randperm(100, generator=torch.Generator().manual_seed(seed)).tolist():
            counts.add(scores[10 * i : 10 * i + 10], labels[10 * i : 10 * i + 10])
        losses.add(counts.mean_loss())
    assert len(losses) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(value):
    scores, labels = logits_and_labels()
    scores[7, 3] = scores[7, 4] = scores[9, 0] = value
    counts = AccuracyCounts()
    counts.add(scores, labels)
    with pytest.raises(ValueError, match="scores of 2 of 200 images are not finite"):
        counts.reduce().percentages()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(-1, r"1 of 200 labels.*0 to 11.*from -1 to 11"), (12, r"1 of 200 labels.*from 0 to 12")],
)
def test_labels_that_are_no_class_are_named(wrong, message):
    scores, labels = logits_and_labels()
    labels[3] = wrong
    counts = AccuracyCounts(logits=True)
    counts.add(scores, labels)
    for figure in (counts.percentages, counts.mean_loss):
        with pytest.raises(ValueError, match=message):
            figure()


def test_shapes_that_do_not_fit_are_refused_and_none_is_no_accuracy():
    counts = AccuracyCounts()
    for scores, labels in ((torch.ones(3), torch.ones(3)), (torch.ones(3, 2), torch.ones(2))):
        with pytest.raises(ValueError, match="do not fit"):
            counts.add(scores, labels.long())
    counts.add(torch.empty(0, 4), torch.empty(0).long())
    with pytest.raises(ValueError, match="no images"):
        counts.reduce().percentages()


def test_a_classifier_is_evaluated_as_it_is_without_a_graph():
    images = torch.randn(10, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(10) % 4
    loader = [Batch((x,), y) for x, y in zip(images.split(4), labels.split(4), strict=True)]
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    training, graphs = [], []

    def classify(x):
        training.append(network.training)
        scores = network(x)
        graphs.append(scores.requires_grad)
        return scores

    figures = evaluate_classifier(classify, loader)
    assert set(training) == {True}
    assert set(graphs) == {False}
    logits = network(images).detach()
    hits = (logits.argmax(dim=1) == labels).double()
    assert figures["top1"] == pytest.approx(100 * float(hits.mean()))
    assert figures["top5"] == 100
    assert figures["test_loss"] == pytest.approx(
        float(nn.functional.cross_entropy(logits, labels)), rel=1e-5
    )
