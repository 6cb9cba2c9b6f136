"""kNN and the linear probe on a GPU beside a CPU."""

import torch
from helpers.gpu import DEVICE, on_gpu

from sslortho.evaluate.knn import knn_predict
from sslortho.evaluate.linear_probe import LogisticRegression

CLASSES, DIM = 4, 12


def clusters(count, seed):
    """Features (count, DIM) around a centre for each class, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    centres = torch.eye(DIM)[:CLASSES] * 3
    return centres[labels] + torch.randn(count, DIM, generator=generator), labels


@on_gpu
def test_knn_names_the_same_classes():
    (bank, labels), (queries, truth) = clusters(400, 0), clusters(120, 1)
    ours = knn_predict(bank.to(DEVICE), labels.to(DEVICE), queries.to(DEVICE), k=20)
    theirs = knn_predict(bank, labels, queries, k=20)
    assert ours.device.type == DEVICE.type
    assert (ours.cpu() == theirs).float().mean() > 0.99  # a tie may fall otherwise
    assert (theirs == truth).float().mean() > 0.9


@on_gpu
def test_the_probe_finds_the_same_optimum():
    features, labels = clusters(300, 2)
    ours = LogisticRegression(features.to(DEVICE), labels.to(DEVICE), l2=1e-2)
    theirs = LogisticRegression(features, labels, l2=1e-2)
    assert ours.weight.device.type == DEVICE.type
    torch.testing.assert_close(ours.weight.cpu(), theirs.weight, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.bias.cpu(), theirs.bias, rtol=0, atol=1e-4)
