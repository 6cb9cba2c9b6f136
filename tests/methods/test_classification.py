import pytest
import torch
from torch import nn
from torch.nn import functional

from sslortho.methods import Classification
from sslortho.models import linear_classifier


def backbone():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5)
    )


def batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(8, 3, 8, 8, generator=generator) + 3
    return images, torch.arange(8) % 3


def test_the_loss_is_the_cross_entropy_of_the_right_classes():
    task = Classification(backbone(), linear_classifier(5, 3))
    images, labels = batch()
    metrics = task((images,), labels)
    logits = task.classifier(task.backbone(images))
    probabilities = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    expected = -torch.stack([probabilities[i, label].log() for i, label in enumerate(labels)])
    assert metrics["loss"].item() == pytest.approx(expected.mean().item(), rel=1e-5)
    hits = sum(int(row.argmax()) == int(label) for row, label in zip(logits, labels, strict=True))
    assert metrics["train_top1"].item() == pytest.approx(100 * hits / 8)


def test_a_frozen_backbone_keeps_weights_and_statistics_and_works_in_evaluation_mode():
    network = backbone()
    reference = {name: value.clone() for name, value in network.state_dict().items()}
    task = Classification(network, linear_classifier(5, 3), freeze_backbone=True).train()
    optimizer = torch.optim.SGD(task.parameters(), lr=1.0, weight_decay=0.1)
    images, labels = batch()
    with torch.no_grad():
        expected = functional.cross_entropy(task.classifier(network.eval()(images)), labels)
    task.train()
    loss = task((images,), labels)["loss"]
    loss.backward()
    optimizer.step()
    torch.testing.assert_close(loss.detach(), expected)
    assert task.training
    assert not any(module.training for module in network.modules())
    assert all(p.grad is None for p in network.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(value, reference[name]), name


def test_a_backbone_that_is_not_frozen_learns():
    task = Classification(backbone(), linear_classifier(5, 3)).train()
    before = task.backbone[1].running_mean.clone()
    images, labels = batch()
    task((images,), labels)["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for p in task.backbone.parameters())
    assert not torch.equal(task.backbone[1].running_mean, before)
