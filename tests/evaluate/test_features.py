import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.ranks import run_on_ranks
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import nn

from sslortho.data import Batch
from sslortho.evaluate import FrozenEvaluation, extract_features, feature_batches, local_features
from sslortho.evaluate.features import gather_rows, rows_before


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


@pytest.mark.parametrize("how", ["exhausted", "dropped", "broken", "refused"])
def test_modes_come_back_however_the_iteration_ends(how):
    backbone = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Dropout())
    backbone[2].eval()
    images, labels = torch.ones(8, 3, 2, 2), torch.arange(8)
    images[6:] = torch.nan if how == "refused" else 1.0

    def loader():
        yield from batches(images, labels)
        if how == "broken":
            raise RuntimeError("the disk is gone")

    features = feature_batches(backbone, loader())
    next(features)
    assert not any(module.training for module in backbone.modules())
    assert torch.is_grad_enabled()  # the consumer's own
    if how == "dropped":
        del features
    elif how == "exhausted":
        assert len(list(features)) == 1
    else:
        with pytest.raises((RuntimeError, ValueError), match=r"disk is gone|2 of 4 images"):
            list(features)
    assert [module.training for module in backbone.modules()] == [True, True, True, False]


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (nn.Conv2d(3, 7, 1), r"\(4, 7, 2, 2\) for 4 images.*\(4, dim\).*AdaptiveAvgPool2d"),
        (nn.Flatten(0), r"\(48,\) for 4 images"),
        (nn.Unflatten(0, (2, 2)), r"\(2, 2, 3, 2, 2\) for 4 images"),
        (nn.Sequential(nn.Flatten(), nn.GRU(12, 5)), "tuple for 4 images"),
    ],
)
def test_a_backbone_that_gives_no_features_is_refused(backbone, message):
    with pytest.raises(ValueError, match=message):
        local_features(backbone, batches(torch.ones(8, 3, 2, 2), torch.arange(8)))


def test_local_features_are_all_batches_float32_and_each_is_shown():
    images, labels = torch.randn(10, 3, 2, 2), torch.arange(10)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    seen = []
    features, found = local_features(
        backbone,
        batches(images, labels),
        autocast=lambda: torch.autocast("cpu", torch.bfloat16),
        each=seen.append,
    )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = torch.cat([backbone(part) for part in images.split(4)])
    assert expected.dtype == torch.bfloat16
    assert features.dtype == torch.float32
    assert torch.equal(features, expected.float())
    assert torch.equal(torch.cat(seen), features)
    assert torch.equal(found, labels)


def exchange(rank):
    local = torch.arange(rank + 1, dtype=torch.float32).view(-1, 1) + 10 * rank
    images, labels = torch.ones(3, 3, 2, 2), torch.arange(3)
    loader = [Batch((images,), labels)] if rank == 1 else []
    features, found = extract_features(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), loader)
    before = rows_before(5 * rank, torch.device("cpu"))
    return gather_rows(local).squeeze(1).tolist(), list(features.shape), found.tolist(), before


@pytest.mark.ranks
def test_rows_of_unequal_ranks_are_gathered_in_order_and_a_rank_may_have_none(tmp_path):
    results = run_on_ranks(exchange, 3, tmp_path)
    for rank, before in enumerate([0, 0, 5]):
        rows = [0.0, 10.0, 11.0, 20.0, 21.0, 22.0]
        assert results[rank] == (rows, [3, 5], [0, 1, 2], before)


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


def test_mixed_precision_is_for_figures_on_the_way_alone():
    """A RankMe of 2 is 2.46 once features are rounded to bfloat16."""
    evaluation, backbone, _ = one_hot_evaluation(torch.arange(30) % 3)
    seen = []
    backbone.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    evaluation = replace(evaluation, autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    assert evaluation.online(backbone) == {"knn_top1": 100.0}
    assert seen
    assert all(seen)
    seen.clear()
    evaluation.final(backbone)
    replace(evaluation, linear_probe=False).final(backbone)
    assert seen
    assert not any(seen)


def test_the_linear_probe_can_be_left_out():
    evaluation, backbone, _ = one_hot_evaluation(torch.arange(30) % 3)
    figures = replace(evaluation, linear_probe=False).final(backbone)
    assert set(figures) == {"knn_top1", "rankme", "feature_std"}


def test_without_the_probe_no_features_of_the_training_set_are_held():
    class Watched(nn.Module):
        made, most = [], 0

        def forward(self, images):
            features = images.mean(dim=(2, 3))
            self.made.append(weakref.ref(features))
            self.most = max(self.most, sum(ref() is not None for ref in self.made))
            return features

    evaluation, _, _ = one_hot_evaluation(torch.arange(30) % 3)
    backbone = Watched()
    figures = replace(evaluation, linear_probe=False).final(backbone)
    assert figures["knn_top1"] == 100
    assert len(backbone.made) == 16
    assert backbone.most <= 2  # of the eight batches of either set


def test_the_stream_and_the_probe_see_the_same_neighbours():
    evaluation, backbone, _ = one_hot_evaluation(torch.arange(30) % 3 // 2)
    whole = evaluation.final(backbone)
    assert whole["knn_top1"] == evaluation.online(backbone)["knn_top1"] < 100


def test_labels_that_are_missing_are_named():
    evaluation, backbone, _ = one_hot_evaluation(torch.full((30,), -1))
    with pytest.raises(ValueError, match="labels go from -1 to -1"):
        evaluation.online(backbone)


def test_without_a_test_set_there_are_only_measures_without_labels():
    evaluation, backbone, _ = one_hot_evaluation(None)
    assert evaluation.online(backbone) == {}
    assert set(evaluation.final(backbone)) == {"rankme", "feature_std"}


def test_features_that_are_not_finite_are_refused():
    evaluation, backbone, _ = one_hot_evaluation(torch.arange(30) % 3)
    broken = nn.Sequential(backbone, nn.Linear(3, 3))
    nn.init.constant_(broken[1].weight, float("nan"))
    for evaluate in (evaluation.final, evaluation.online):
        with pytest.raises(ValueError, match="4 of 4 images are not finite"):
            evaluate(broken)


def test_a_test_set_without_images_is_one_line():
    evaluation, backbone, _ = one_hot_evaluation(torch.arange(30) % 3)
    empty = replace(evaluation, test=[])
    for evaluate in (empty.online, empty.final, replace(empty, linear_probe=False).final):
        with pytest.raises(ValueError, match="the test set has no images"):
            evaluate(backbone)


def test_test_images_without_a_class_are_named():
    evaluation, backbone, labels = one_hot_evaluation(torch.arange(30) % 3 - 1)
    with pytest.raises(ValueError, match=r"10 of 30 labels are not among 0 to 2.*from -1 to 1"):
        evaluation.final(backbone)
    unlabelled = replace(
        evaluation, train=batches(torch.ones(30, 3, 2, 2), -torch.ones_like(labels))
    )
    with pytest.raises(ValueError, match="only labelled images can vote"):
        replace(
            unlabelled, test=batches(torch.ones(4, 3, 2, 2), -torch.ones_like(labels[:4]))
        ).online(backbone)


def test_features_of_several_views_are_their_mean():
    torch.manual_seed(1)
    views, labels = torch.randn(3, 10, 3, 8, 8), torch.arange(10)
    backbone = network()
    backbone(views[0])
    loader = [Batch(tuple(views[:, i : i + 4]), labels[i : i + 4]) for i in (0, 4, 8)]
    features, found = extract_features(backbone, loader)
    assert torch.equal(found, labels)
    backbone.eval()
    expected = (backbone(views[0]) + backbone(views[1]) + backbone(views[2])) / 3
    torch.testing.assert_close(features, expected.detach())


def test_final_figures_are_those_of_scikit_learn():
    """Classes that overlap: another temperature, or another l2, gives other figures."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (200,), generator=generator)
    centres = torch.randn(4, 12, generator=generator)
    points = centres[labels] + 2 * torch.randn(200, 12, generator=generator)

    def batches(part):
        pairs = zip(points[part].split(32), labels[part].split(32), strict=True)
        return [Batch((features.view(-1, 3, 2, 2),), classes) for features, classes in pairs]

    train, test = slice(0, 120), slice(120, 200)
    evaluation = FrozenEvaluation(batches(train), batches(test), knn_k=25, knn_temperature=0.02)
    figures = evaluation.final(nn.Flatten())
    x, y = points.double().numpy(), labels.numpy()

    def knn(temperature):
        peer = KNeighborsClassifier(
            25, metric="cosine", algorithm="brute",
            weights=lambda distances: np.exp((1 - distances) / temperature),
        )  # fmt: skip
        return 100 * np.mean(peer.fit(x[train], y[train]).predict(x[test]) == y[test])

    def probe(l2):
        scaler = StandardScaler().fit(x[train])
        peer = LogisticRegression(C=1 / (l2 * 120), tol=1e-9, max_iter=5000)
        peer.fit(scaler.transform(x[train]), y[train])
        return 100 * np.mean(peer.predict(scaler.transform(x[test])) == y[test])

    assert figures["knn_top1"] == pytest.approx(knn(0.02))
    assert figures["linear_top1"] == pytest.approx(probe(1e-3))
    assert knn(0.02) != knn(2.0)
    assert probe(1e-3) != probe(1.0)
