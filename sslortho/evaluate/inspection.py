"""Inspection of an evaluation: a map of the features, the mistakes, nearest neighbours."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sslortho.evaluate.figures import Picture, Table
from sslortho.evaluate.neighbours import NeighbourSearch
from sslortho.evaluate.pictures import (
    choose_queries,
    confusion_matrix,
    draw_confusion,
    draw_feature_map,
    draw_neighbours,
    most_confused,
)
from sslortho.evaluate.projections import project_pca, project_umap

QUERIES, NEIGHBOURS = 8, 7
"""Rows of the picture of nearest neighbours, and training images in each row."""

MISTAKES = 10
"""Pairs of classes in the table of mistakes."""

ShowImages = Callable[[Tensor], Tensor]
"""Indices (n,) of a data set to its images (n, 3, height, width), normalised."""


@dataclass(frozen=True)
class Inspection:
    """Features, predictions and neighbours from which the pictures are drawn."""

    features: Tensor
    """(n, dim), of the test images."""
    labels: Tensor
    """int64 (n,): true classes of the test images."""
    predictions: Tensor
    """int64 (n,): predicted classes."""
    queries: Tensor
    """int64 (q,): indices of the test images whose neighbours are shown."""
    neighbours: Tensor
    """int64 (q, k): indices of the nearest training images of each query, nearest first."""
    similarities: Tensor
    """(q, k): cosines of queries and neighbours."""


def inspect_features(
    features: Tensor,
    labels: Tensor,
    predictions: Tensor,
    bank: Iterable[Tensor],
    seed: int,
) -> Inspection:
    """Choose a few test images and find their neighbours; every rank must call.

    Args:
        features: (n, dim), of all test images, the same on every rank.
        labels, predictions: int64 (n,), likewise.
        bank: this rank's part of the training features, in batches (batch, dim).
        seed: of the choice.

    Raises ValueError as `NeighbourSearch`.
    """
    queries = choose_queries(labels, QUERIES, seed).to(features.device)
    search = NeighbourSearch(features[queries], NEIGHBOURS)
    for batch in bank:
        search.add(batch)
    similarities, neighbours = search.result()
    return Inspection(features, labels, predictions, queries, neighbours, similarities)


def inspect_neighbours(
    features: Tensor,
    labels: Tensor,
    predictions: Tensor,
    similarities: Tensor,
    neighbours: Tensor,
    seed: int,
) -> Inspection:
    """`inspect_features` where the neighbours of all test images are known already.

    Args:
        features, labels, predictions, seed: as for `inspect_features`.
        similarities, neighbours: (n, k) and int64 (n, k), nearest first; see `NeighbourSearch.result`.
    """
    queries = choose_queries(labels, QUERIES, seed).to(features.device)
    nearest = (tensor[queries, :NEIGHBOURS] for tensor in (neighbours, similarities))
    return Inspection(features, labels, predictions, queries, *nearest)


@dataclass(frozen=True)
class InspectedImages:
    """Images behind the features, for the picture that shows them."""

    show_test: ShowImages
    show_train: ShowImages
    train_labels: Tensor
    """int64 (m,): labels of the images that `show_train` shows."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Normalisation of the images that are shown."""
    remark: str = ""
    """End of the caption of the neighbours."""


def draw_inspection(
    folder: Path,
    inspection: Inspection,
    classes: Sequence[str],
    images: InspectedImages,
    seed: int,
) -> tuple[list[Picture], list[Table]]:
    """Draw the pictures into a folder; returns them, and tables to go with them in a report.

    features_pca.png, features_umap.png where umap-learn is installed, confusion.png, neighbours.png.

    Args:
        folder: of the run.
        inspection: features, predictions and neighbours.
        classes: names.
        images: the images that the neighbours' indices mean.
        seed: of UMAP.
    """
    matrix = confusion_matrix(inspection.labels, inspection.predictions, len(classes))
    draw_confusion(folder / "confusion.png", matrix, classes)
    _draw_neighbours(folder / "neighbours.png", inspection, classes, images)
    pictures = [
        *_draw_maps(folder, inspection, classes, seed),
        Picture(
            folder / "confusion.png",
            "Which class is taken for which, in percent of the true class.",
        ),
        Picture(
            folder / "neighbours.png",
            "Test images, and the training images whose features are nearest (cosine)"
            f"{images.remark}.",
        ),
    ]
    rows = [
        (true, predicted, round(100 * share, 2))
        for true, predicted, share in most_confused(matrix, classes, MISTAKES)
    ]
    header = ("true class", "taken for", "% of the true class")
    return pictures, [Table("Most frequent mistakes", header, rows)] if rows else []


def _draw_maps(
    folder: Path, inspection: Inspection, classes: Sequence[str], seed: int
) -> list[Picture]:
    labels = inspection.labels.cpu()
    points, shares = project_pca(inspection.features)
    percent = " and ".join(f"{100 * share:.0f} %" for share in shares.tolist())
    path = folder / "features_pca.png"
    x, y = (
        f"component {i}: {100 * share:.1f} % of the variance"
        for i, share in enumerate(shares.tolist(), 1)
    )
    title = f"Principal components of {len(points):,} test features"
    draw_feature_map(path, points, labels, classes, title, axis_names=(x, y))
    caption = f"Test features on their first two principal components: {percent} of the variance."
    pictures = [Picture(path, caption)]
    if (layout := project_umap(inspection.features, seed)) is not None:
        points, chosen = layout
        path = folder / "features_umap.png"
        title = f"UMAP of {len(chosen):,} test features"
        draw_feature_map(path, points, labels[chosen], classes, title)
        pictures.append(Picture(path, f"UMAP of {len(chosen)} test features, by cosine."))
    return pictures


def _draw_neighbours(
    path: Path, inspection: Inspection, classes: Sequence[str], images: InspectedImages
) -> None:
    queries, neighbours = inspection.queries.cpu(), inspection.neighbours.cpu()
    unique, inverse = torch.unique(neighbours, return_inverse=True)
    draw_neighbours(
        path,
        images.show_test(queries),
        images.show_train(unique)[inverse],
        inspection.labels.cpu()[queries],
        images.train_labels[neighbours],
        inspection.similarities.cpu(),
        classes,
        images.mean,
        images.std,
    )
