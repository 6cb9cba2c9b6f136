"""The choice of images to inspect, and the files and tables drawn from it."""

import pytest
import torch
from torch.nn import functional

from sslortho.evaluate import (
    InspectedImages,
    NeighbourSearch,
    Picture,
    draw_inspection,
    inspect_features,
    inspect_neighbours,
)
from sslortho.evaluate.inspection import NEIGHBOURS, QUERIES

COUNT, BANK, DIM, CLASSES = 30, 40, 6, ("a", "b", "c")


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


FEATURES, TRAIN = numbers(COUNT, DIM), numbers(BANK, DIM, seed=1)
LABELS, TRAIN_LABELS = torch.arange(COUNT) % 3, torch.arange(BANK) % 3
PREDICTIONS = torch.where(torch.arange(COUNT) < 9, (LABELS + 1) % 3, LABELS)


def test_neighbours_are_the_nearest_training_images_of_a_few_queries_of_each_class():
    found = inspect_features(FEATURES, LABELS, PREDICTIONS, TRAIN.split(11), seed=4)
    assert len(found.queries) == QUERIES
    assert set(LABELS[found.queries].tolist()) == {0, 1, 2}
    cosines = functional.normalize(FEATURES[found.queries], dim=1) @ functional.normalize(TRAIN).T
    expected = cosines.topk(NEIGHBOURS)
    assert torch.equal(found.neighbours, expected.indices)
    torch.testing.assert_close(found.similarities, expected.values)


def test_known_neighbours_give_the_same_inspection():
    search = NeighbourSearch(FEATURES, NEIGHBOURS + 3)
    search.add(TRAIN)
    similarities, neighbours = search.result()
    known = inspect_neighbours(FEATURES, LABELS, PREDICTIONS, similarities, neighbours, seed=4)
    searched = inspect_features(FEATURES, LABELS, PREDICTIONS, [TRAIN], seed=4)
    assert torch.equal(known.queries, searched.queries)
    assert torch.equal(known.neighbours, searched.neighbours)
    torch.testing.assert_close(known.similarities, searched.similarities)


@pytest.mark.slow
def test_pictures_and_the_table_of_mistakes(tmp_path, monkeypatch):
    monkeypatch.setattr("sslortho.evaluate.inspection.project_umap", lambda features, seed: None)
    shown = []

    def show(indices: torch.Tensor) -> torch.Tensor:
        shown.append(indices)
        return torch.zeros(len(indices), 3, 4, 4)

    found = inspect_features(FEATURES, LABELS, PREDICTIONS, [TRAIN], seed=4)
    images = InspectedImages(show, show, TRAIN_LABELS, (0.5,) * 3, (0.2,) * 3, ", of 40")
    pictures, tables = draw_inspection(tmp_path, found, CLASSES, images, seed=4)
    assert [p.path.name for p in pictures] == [
        "features_pca.png",
        "confusion.png",
        "neighbours.png",
    ]
    assert all(isinstance(p, Picture) and p.path.is_file() for p in pictures)
    assert pictures[-1].caption.endswith("(cosine), of 40.")
    assert torch.equal(shown[0], found.queries)
    assert torch.equal(shown[1], found.neighbours.unique())  # each training image once
    (table,) = tables
    assert sorted(table.rows) == [("a", "b", 30.0), ("b", "c", 30.0), ("c", "a", 30.0)]


@pytest.mark.slow
def test_without_mistakes_there_is_no_table(tmp_path, monkeypatch):
    monkeypatch.setattr("sslortho.evaluate.inspection.project_umap", lambda features, seed: None)
    found = inspect_features(FEATURES, LABELS, LABELS, [TRAIN], seed=4)

    def show(indices: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(indices), 3, 4, 4)

    images = InspectedImages(show, show, TRAIN_LABELS, (0.5,) * 3, (0.2,) * 3)
    assert draw_inspection(tmp_path, found, CLASSES, images, seed=4)[1] == []
