"""Whatever the number of ranks, the figures are those of one."""

import warnings

import pytest
import torch
from helpers.ranks import run_on_ranks
from torch import nn

from sslortho.data import Batch
from sslortho.data.batches import evaluation_batches
from sslortho.evaluate import (
    AccuracyCounts,
    FrozenEvaluation,
    LogisticRegression,
    NeighbourSearch,
    evaluate_classifier,
    extract_features,
    feature_batches,
    inspect_features,
    local_features,
    select_l2,
)
from sslortho.evaluate import knn as knn_module
from sslortho.evaluate import linear_probe as linear_probe_module
from sslortho.evaluate import neighbours as search_module

pytestmark = pytest.mark.ranks

COUNT, CLASSES, K = 150, 6, 7


def images_and_labels(seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (COUNT,), generator=generator)
    centres = torch.randn(CLASSES, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = centres[labels] + 2 * torch.randn(COUNT, 3, 4, 4, generator=generator)
    images[::10] = images[0]  # ties
    return images, labels


def loader_of(seed, batch_size, rank, world_size):
    images, labels = images_and_labels(seed)
    parts = evaluation_batches(COUNT, batch_size, rank, world_size)
    return [Batch((images[list(part)],), labels[list(part)]) for part in parts]


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )


def results_of_a_rank(rank, world_size):
    """With five batches, unequal shares, and with two, so that the first of three ranks has none."""
    results = [results_with(rank, world_size, batch_size) for batch_size in (31, 75)]
    counts = AccuracyCounts()
    if rank == world_size - 1:
        counts.add(torch.zeros(3, 4), torch.tensor([2, -1, 6]))
    try:
        counts.reduce().percentages()
    except ValueError as error:
        results.append(str(error))
    return results


def results_with(rank, world_size, batch_size):
    knn_module.BLOCK = search_module.BLOCK = 400  # several blocks of queries, a merge in parts
    linear_probe_module.BLOCKS = {"cpu": 1000}  # 31 rows
    backbone, head = network(), nn.Linear(32, CLASSES)
    train, test = (loader_of(seed, batch_size, rank, world_size) for seed in (1, 2))
    queries, truth = extract_features(backbone, test)
    search = NeighbourSearch(queries, K)
    for features, _ in feature_batches(backbone, train):
        search.add(features)
    features, labels = local_features(backbone, train)
    inspection = inspect_features(queries, truth, truth, features.split(31), 0)
    probe = LogisticRegression(features, labels, 1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the edge, on rank 0 alone
        selection = select_l2(features, labels, candidates=(1e-2, 1e-1, 1.0))
    frozen = FrozenEvaluation(train=train, test=test, knn_k=K)

    def classify(images):
        return head(backbone(images))

    return {
        "neighbours": search.result(),
        "inspected": [inspection.queries, inspection.similarities, inspection.neighbours],
        "classifier": evaluate_classifier(classify, test),
        "final": frozen.final(backbone),
        "online": frozen.online(backbone),
        "probe": [probe.mean, probe.scale, probe.weight, probe.bias],
        "l2": selection.l2,
        "top1": [trial.top1 for trial in selection.trials],
        "loss": [trial.loss for trial in selection.trials],
        "batches": len(train),
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return {
        world_size: run_on_ranks(
            results_of_a_rank, world_size, tmp_path_factory.mktemp("ranks"), world_size
        )
        for world_size in (1, 2, 3)
    }


@pytest.fixture(params=[0, 1], ids=["unequal", "empty"])
def results(request, runs):
    """A list over ranks for each number of ranks."""
    return {
        world_size: [result[request.param] for result in ranks]
        for world_size, ranks in runs.items()
    }


def test_shares_are_unequal_or_empty(results):
    batches = [result["batches"] for result in results[3]]
    assert batches in ([1, 2, 2], [0, 1, 1])


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("what", ["neighbours", "inspected"])
def test_neighbours_are_the_same_to_the_last_bit(results, what, world_size):
    (expected,) = results[1]
    for result in results[world_size]:
        for ours, theirs in zip(result[what], expected[what], strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("what", ["classifier", "final", "online", "l2", "top1"])
def test_figures_are_the_same_to_the_last_bit(results, what, world_size):
    (expected,) = results[1]
    assert [result[what] for result in results[world_size]] == [expected[what]] * world_size


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_fit_is_the_same_but_for_rounding_and_the_same_on_every_rank(results, world_size):
    (expected,) = results[1]
    first = results[world_size][0]
    for result in results[world_size]:
        assert result["loss"] == pytest.approx(expected["loss"], rel=1e-8)
        for ours, theirs, rank_0s in zip(
            result["probe"], expected["probe"], first["probe"], strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)
            assert torch.equal(ours, rank_0s)


def test_every_rank_names_the_wrong_labels_of_any(runs):
    for world_size, ranks in runs.items():
        messages = {result[-1] for result in ranks}
        assert len(ranks) == world_size
        assert len(messages) == 1
        message = messages.pop()
        assert "2 of 3 labels are not among 0 to 3" in message
        assert "from -1 to 6" in message


def test_the_neighbours_are_those_of_the_whole_bank(results):
    (expected,) = results[1]
    similarities, indices = expected["neighbours"]
    backbone = network()
    with torch.no_grad():
        bank, queries = (
            nn.functional.normalize(backbone(images_and_labels(seed)[0]).double(), dim=1)
            for seed in (1, 2)
        )
    cosines = queries @ bank.mT
    torch.testing.assert_close(similarities.double(), cosines.gather(1, indices), rtol=0, atol=1e-6)
    best = cosines.topk(K, dim=1).values
    torch.testing.assert_close(similarities.double(), best, rtol=0, atol=1e-6)
    copies = torch.zeros(COUNT, dtype=torch.bool)
    copies[::10] = True  # the same image; those found are the first of them
    for row in indices.tolist():
        found = [i for i in row if copies[i]]
        assert found == list(range(0, COUNT, 10))[: len(found)]
