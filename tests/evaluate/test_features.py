from dataclasses import replace

import pytest
import torch
from ranks import run_on_ranks
from torch import nn

from sslortho.data import Batch
from sslortho.evaluate import FrozenEvaluation, extract_features
from sslortho.evaluate.features import gather_rows


def batches(images, labels, size=4):
    return [Batch((x,), y) for x, y in zip(images.split(size), labels.split(size), strict=True)]


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.LazyLinear(6)
    )


def test_features_are_those_of_evaluation_mode_and_leave_no_trace():
    images, labels = torch.randn(10, 3, 8, 8), torch.arange(10)
    backbone = network()
    backbone(images)  # LazyLinear, and batch-norm statistics that are not the initial ones
    backbone[2].eval()  # a frozen part stays frozen
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    features, found = extract_features(backbone, batches(images, labels))
    assert torch.equal(found, labels)
    assert [module.training for module in backbone] == [True, True, False, True, True]
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]), name
    torch.testing.assert_close(features, backbone.eval()(images).detach())


def gather_unequal(rank):
    local = torch.arange(rank + 1, dtype=torch.float32).view(-1, 1) + 10 * rank
    return gather_rows(local).squeeze(1).tolist()


def test_rows_of_unequal_ranks_are_gathered_in_order(tmp_path):
    expected = [0.0, 10.0, 11.0, 20.0, 21.0, 22.0]
    assert run_on_ranks(gather_unequal, 3, tmp_path) == [expected] * 3


def extract_from_one_rank_alone(rank):
    images, labels = torch.ones(3, 3, 2, 2), torch.arange(3)
    loader = [Batch((images,), labels)] if rank == 1 else []
    features, found = extract_features(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), loader)
    return list(features.shape), found.tolist()


def test_a_rank_without_images_takes_part(tmp_path):
    """A test set of fewer images than ranks."""
    assert run_on_ranks(extract_from_one_rank_alone, 3, tmp_path) == [([3, 5], [0, 1, 2])] * 3


def one_hot_evaluation(test_labels):
    """A backbone that shows each image's class, and data of three classes."""
    labels = torch.arange(30) % 3
    images = nn.functional.one_hot(labels, 3).float().view(-1, 3, 1, 1).expand(-1, 3, 2, 2)
    test = None if test_labels is None else batches(images, test_labels)
    backbone = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return FrozenEvaluation(train=batches(images, labels), test=test, knn_k=5), backbone, labels


def test_figures_are_percentages():
    evaluation, backbone, labels = one_hot_evaluation(torch.arange(30) % 3)
    assert evaluation.online(backbone) == {"knn_top1": 100.0}
    wrong = labels.clone()
    wrong[:6] = (wrong[:6] + 1) % 3
    evaluation, backbone, _ = one_hot_evaluation(wrong)
    figures = evaluation.final(backbone)
    assert figures["knn_top1"] == pytest.approx(80)
    assert figures["linear_top1"] == pytest.approx(80)
    assert figures["rankme"] == pytest.approx(3, rel=1e-3)


def test_the_linear_probe_can_be_left_out():
    evaluation, backbone, _ = one_hot_evaluation(torch.arange(30) % 3)
    figures = replace(evaluation, linear_probe=False).final(backbone)
    assert set(figures) == {"knn_top1", "rankme", "feature_std"}


def test_without_a_test_set_there_are_only_measures_without_labels():
    evaluation, backbone, _ = one_hot_evaluation(None)
    assert evaluation.online(backbone) == {}
    assert set(evaluation.final(backbone)) == {"rankme", "feature_std"}


def test_features_that_are_not_finite_are_refused():
    evaluation, backbone, _ = one_hot_evaluation(torch.arange(30) % 3)
    broken = nn.Sequential(backbone, nn.Linear(3, 3))
    nn.init.constant_(broken[1].weight, float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        evaluation.final(broken)
