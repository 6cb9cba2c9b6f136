"""What to look at after an evaluation: a map of the features, mistakes, nearest neighbours."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sslortho.evaluate.knn import NeighbourSearch
from sslortho.evaluate.pictures import (
    choose_queries,
    confusion_matrix,
    draw_confusion,
    draw_feature_map,
    draw_neighbours,
    most_confused,
)
from sslortho.evaluate.projections import project_pca, project_umap
from sslortho.runs.report import ReportPicture, ReportTable

QUERIES, NEIGHBOURS = 8, 7
"""Of the picture of nearest neighbours."""

MISTAKES = 10
"""Pairs of classes in the table of mistakes."""

ShowImages = Callable[[Tensor], Tensor]
"""Indices (n,) of a data set to its images (n, 3, height, width), normalised."""


@dataclass(frozen=True)
class Looks:
    """What the pictures are drawn from."""

    features: Tensor
    """(n, dim), of the test images."""
    labels: Tensor
    """int64 (n,)."""
    predictions: Tensor
    """int64 (n,)."""
    queries: Tensor
    """int64 (q,): which of the test images have their neighbours shown."""
    neighbours: Tensor
    """int64 (q, k): which of the training images those are, nearest first."""
    similarities: Tensor
    """(q, k): cosines."""


def find_looks(
    features: Tensor,
    labels: Tensor,
    predictions: Tensor,
    bank: Iterable[Tensor],
    seed: int,
) -> Looks:
    """Neighbours of a few test images; every rank must call.

    Args:
        features, labels, predictions: of the test images, (n, dim), (n,), (n,), on every rank.
        bank: this rank's part of the training features, in batches (batch, dim).
        seed: of the choice.
    """
    queries = choose_queries(labels, QUERIES, seed).to(features.device)
    search = NeighbourSearch(features[queries], NEIGHBOURS)
    for batch in bank:
        search.add(batch)
    similarities, neighbours = search.result()
    return Looks(features, labels, predictions, queries, neighbours, similarities)


def choose_looks(
    features: Tensor,
    labels: Tensor,
    predictions: Tensor,
    similarities: Tensor,
    neighbours: Tensor,
    seed: int,
) -> Looks:
    """The same where the neighbours of all test images are known: similarities, indices (n, k)."""
    queries = choose_queries(labels, QUERIES, seed).to(features.device)
    nearest = (tensor[queries, :NEIGHBOURS] for tensor in (neighbours, similarities))
    return Looks(features, labels, predictions, queries, *nearest)


@dataclass(frozen=True)
class Scene:
    """The images behind the features, for the pictures that show them."""

    show_test: ShowImages
    show_train: ShowImages
    train_labels: Tensor
    """int64, of the images that `show_train` shows."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    remark: str = ""
    """For the caption of the neighbours."""


def draw_looks(
    folder: Path,
    looks: Looks,
    classes: Sequence[str],
    scene: Scene,
    seed: int,
) -> tuple[list[ReportPicture], list[ReportTable]]:
    """Draw the pictures; those, and tables to stand beside them in a report.

    features_pca.png, features_umap.png where umap-learn is installed, confusion.png, neighbours.png.

    Args:
        folder: of the run.
        looks: what to draw.
        classes: names.
        scene: where the images come from.
        seed: of UMAP.
    """
    matrix = confusion_matrix(looks.labels, looks.predictions, len(classes))
    draw_confusion(folder / "confusion.png", matrix, classes)
    _draw_neighbours(folder / "neighbours.png", looks, classes, scene)
    pictures = [
        *_draw_maps(folder, looks, classes, seed),
        ReportPicture(
            folder / "confusion.png",
            "Which class is taken for which, in percent of the true class.",
        ),
        ReportPicture(
            folder / "neighbours.png",
            "Test images, and the training images whose features are nearest (cosine)"
            f"{scene.remark}.",
        ),
    ]
    rows = [
        (true, predicted, round(100 * share, 2))
        for true, predicted, share in most_confused(matrix, classes, MISTAKES)
    ]
    header = ("true class", "taken for", "% of the true class")
    return pictures, [ReportTable("Most frequent mistakes", header, rows)] if rows else []


def _draw_maps(
    folder: Path, looks: Looks, classes: Sequence[str], seed: int
) -> list[ReportPicture]:
    labels = looks.labels.cpu()
    points, shares = project_pca(looks.features)
    percent = " and ".join(f"{100 * share:.0f} %" for share in shares.tolist())
    path = folder / "features_pca.png"
    draw_feature_map(path, points, labels, classes, "PCA")
    caption = f"Test features on their first two principal components: {percent} of the variance."
    pictures = [ReportPicture(path, caption)]
    if (layout := project_umap(looks.features, seed)) is not None:
        points, chosen = layout
        path = folder / "features_umap.png"
        draw_feature_map(path, points, labels[chosen], classes, "UMAP")
        pictures.append(ReportPicture(path, f"UMAP of {len(chosen)} test features, by cosine."))
    return pictures


def _draw_neighbours(path: Path, looks: Looks, classes: Sequence[str], scene: Scene) -> None:
    queries, neighbours = looks.queries.cpu(), looks.neighbours.cpu()
    unique, inverse = torch.unique(neighbours, return_inverse=True)
    draw_neighbours(
        path,
        scene.show_test(queries),
        scene.show_train(unique)[inverse],
        looks.labels.cpu()[queries],
        scene.train_labels[neighbours],
        looks.similarities.cpu(),
        classes,
        scene.mean,
        scene.std,
    )
