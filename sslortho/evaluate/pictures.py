"""Pictures of an evaluation: a map of the features, the confusion matrix, nearest neighbours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslortho.evaluate.feature_files import name_class
from sslortho.evaluate.figures import COLOURS, GREY, MARKERS, new_figure, plain_text, save_figure

RIGHT, WRONG = "#009E73", "#CC3311"
"""Green (Okabe and Ito's) and red (Paul Tol's) that the colour-blind tell apart."""

NUMBERED = 20
"""Classes up to which a confusion matrix has its numbers written in."""
NAMED = 60
"""Classes up to which a confusion matrix has their names along its sides."""


def class_name(classes: Sequence[str], label: int, most: int = 24) -> str:
    """Name of a class for a picture, at most `most` characters; its number if classes have no names."""
    return plain_text(name_class(classes, label, "unlabelled"), most)


def _coloured_classes(labels: Tensor, most: int) -> list[int]:
    """The `most` classes with most samples, ascending; among equals they are spread over all numbers."""
    found, counts = labels[labels >= 0].unique(return_counts=True)
    # neighbours in number are often alike, as in ImageNet: the fractions of a few multiples of the
    # golden ratio are evenly spaced, so the classes with the smallest ones are too
    ranked = sorted(zip(counts.tolist(), found.tolist(), strict=True),
                    key=lambda pair: (-pair[0], pair[1] * 0.6180339887 % 1))  # fmt: skip
    return sorted(label for _, label in ranked[:most])


def draw_feature_map(
    path: Path,
    points: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    title: str,
    most_classes: int = 20,
    axis_names: tuple[str, str] = ("", ""),
) -> None:
    """Draw points in the plane, each class with its own colour and shape, named in the legend.

    Of more classes than `most_classes` the most frequent have colours, and all others are grey, since
    no eye tells a thousand colours apart.

    Args:
        path: of the picture.
        points: (n, 2).
        labels: int64 (n,); below 0 is unlabelled, and grey.
        classes: their names; may be empty.
        title: above the map.
        most_classes: from 0 to 90.
        axis_names: below the map, and to its left.

    Raises ValueError for `most_classes` out of range.
    """
    if not 0 <= most_classes <= len(COLOURS) * len(MARKERS):
        raise ValueError(f"{most_classes=} must be from 0 to {len(COLOURS) * len(MARKERS)}")
    points, labels = points.cpu(), labels.cpu()
    figure = new_figure(9.5, 7)
    axes = figure.subplots()
    coloured = _coloured_classes(labels, most_classes)
    rest = ~torch.isin(labels, torch.tensor(coloured, dtype=labels.dtype))

    def scatter(which: Tensor, among: Tensor, label: str, **style: Any) -> None:
        size = min(36.0, max(6.0, 40_000 / int(among.sum())))  # square points, by eye
        axes.scatter(*points[which].mT, s=size, linewidths=0, rasterized=True, label=label, **style)

    for i, label in enumerate(coloured):
        scatter(labels == label, ~rest, class_name(classes, label), c=COLOURS[i % len(COLOURS)],
                marker=MARKERS[i % len(MARKERS)], alpha=0.75, zorder=2)  # fmt: skip
    if rest.any():
        count = len(labels[rest & (labels >= 0)].unique())
        name = f"{count:,} more classes" if count else "unlabelled"
        grey, alpha = (GREY, 0.3) if coloured else (COLOURS[0], 0.6)  # no class to set apart
        scatter(rest, rest, name, c=grey, alpha=alpha, zorder=1)
    _dress_map(figure, axes, title)
    axes.set_xlabel(axis_names[0])
    axes.set_ylabel(axis_names[1])
    save_figure(figure, path)


def _dress_map(figure: Any, axes: Any, title: str) -> None:
    names = [handle.get_label() for handle in axes.collections]
    # numbers at first: matplotlib before 3.10 leaves out what begins with _
    legend = figure.legend(
        axes.collections, range(len(names)), loc="outside right upper", frameon=False
    )
    for handle, text, name in zip(legend.legend_handles, legend.texts, names, strict=True):
        text.set_text(name)
        handle.set_alpha(1)
        handle.set_sizes([45])
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title)


def confusion_matrix(labels: Tensor, predictions: Tensor, classes_count: int) -> Tensor:
    """Count how often each true class (row) was taken for each class (column).

    Args:
        labels, predictions: integers (n,), from 0 to classes_count - 1.
        classes_count: number of classes, c.

    Returns:
        int64 (c, c), on the CPU.

    Raises ValueError if labels and predictions differ in number, or are out of range.
    """
    labels, predictions = labels.cpu().long(), predictions.cpu().long()
    if labels.shape != predictions.shape:
        raise ValueError(f"{len(labels)} labels and {len(predictions)} predictions: give as many")
    for name, numbers in (("labels", labels), ("predictions", predictions)):
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < classes_count:
            raise ValueError(f"{name} must be from 0 to classes_count - 1 = {classes_count - 1}")
    pairs = labels * classes_count + predictions
    return torch.bincount(pairs, minlength=classes_count**2).view(classes_count, classes_count)


def most_confused(
    matrix: Tensor, classes: Sequence[str], count: int
) -> list[tuple[str, str, float]]:
    """The pairs of classes most often mistaken: (true, predicted, share of the true class).

    Shares are from 0 to 1, largest first; among equals the pair with more samples first. There are
    fewer than `count` if there are fewer mistakes.
    """
    mistakes = matrix.clone().fill_diagonal_(0)
    true, predicted = mistakes.nonzero(as_tuple=True)
    counts = mistakes[true, predicted]
    shares = counts.double() / matrix.sum(dim=1)[true]
    order = torch.from_numpy(np.lexsort((-counts.numpy(), -shares.numpy()))[:count])
    found = zip(
        true[order].tolist(), predicted[order].tolist(), shares[order].tolist(), strict=True
    )
    return [(name_class(classes, t), name_class(classes, p), share) for t, p, share in found]


def _write_cells(axes: Any, percent: Tensor) -> None:
    for row, column in (percent > 0).nonzero().tolist():
        value = float(percent[row, column])
        axes.text(column, row, "100" if value == 100 else f"{value:.1f}", ha="center", va="center",
                  fontsize=10 if len(percent) <= 10 else 8,
                  color="white" if value > 35 else "black")  # fmt: skip


def draw_confusion(path: Path, matrix: Tensor, classes: Sequence[str]) -> None:
    """Draw a confusion matrix, int64 (c, c), in percent of each true class.

    Up to 20 classes have numbers in the cells, up to 60 names along the sides. Rows of classes without
    samples are grey.
    """
    from matplotlib.colors import PowerNorm

    count = len(matrix)
    percent = 100 * matrix.double() / matrix.sum(dim=1, keepdim=True)  # 0 / 0: nan, drawn grey
    side = min(11.5, 3.6 + 0.46 * count)
    figure = new_figure(side + 1, side)
    figure.set_layout_engine("compressed")  # for axes of a fixed shape
    axes = figure.subplots()
    axes.set_facecolor("#d0d0d0")
    # a root shows mistakes of one percent beside hits of a hundred
    image = axes.imshow(percent.numpy(), cmap="Blues" if count <= NAMED else "gist_heat_r",
                        norm=PowerNorm(0.5 if count <= NAMED else 0.4, 0, 100),
                        interpolation="nearest" if count <= 1000 else "auto")  # fmt: skip
    figure.colorbar(image, ax=axes, label="% of the true class", shrink=0.8,
                    ticks=[0, 1, 5, 10, 25, 50, 75, 100])  # fmt: skip
    if count <= NUMBERED:
        _write_cells(axes, percent)
    if count <= NAMED:
        names = [class_name(classes, label) for label in range(count)]
        size = 9 if count <= NUMBERED else 7
        upright = max(map(len, names)) <= 3 and count <= NUMBERED
        axes.set_xticks(range(count), names, fontsize=size, rotation=0 if upright else 90)
        axes.set_yticks(range(count), names, fontsize=size)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    save_figure(figure, path)


def choose_queries(labels: Tensor, count: int, seed: int) -> Tensor:
    """Choose `count` samples, the same number of each class, give or take one.

    If a class runs out, others fill its place. If there are fewer queries than classes, `seed` chooses
    the classes too.

    Args:
        labels: int64 (n,).
        count: samples; all if there are fewer.
        seed: of the choice.

    Returns:
        Indices, int64 (m,), sorted by class and then by index.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    shuffled = labels.cpu().numpy()[order]
    _, group, sizes = np.unique(shuffled, return_inverse=True, return_counts=True)
    by_class = np.argsort(group, kind="stable")
    turn = np.empty(len(order), dtype=np.int64)  # its place among its class, by chance
    turn[by_class] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = np.lexsort((generator.permutation(len(sizes))[group], turn))[:count]
    return torch.from_numpy(order[chosen[np.lexsort((order[chosen], group[chosen]))]])


def undo_normalise(views: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turn a model's views (..., 3, height, width) into colours (..., height, width, 3) from 0 to 1."""
    colours = views.detach().float().cpu().movedim(-3, -1)
    return (colours * torch.tensor(std) + torch.tensor(mean)).clamp(0, 1)


def _show_image(axes: Any, colours: Tensor, caption: str, frame: str) -> None:
    axes.imshow(colours.numpy())
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(caption, fontsize=8, pad=5)
    for spine in axes.spines.values():
        spine.set(color=frame, linewidth=3)


def draw_neighbours(
    path: Path,
    queries: Tensor,
    neighbours: Tensor,
    query_labels: Tensor,
    neighbour_labels: Tensor,
    similarities: Tensor,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    names: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None,
) -> None:
    """Draw a row for each query, with its nearest training images to the right, nearest first.

    A neighbour of the query's class has a green frame and a tick, one of another class a red frame and
    a cross. If one of the two has no label, the frame is grey.

    Args:
        path: of the picture.
        queries: (q, 3, height, width), normalised by mean and std (3 numbers each).
        neighbours: (q, k, 3, height, width), likewise.
        query_labels: int64 (q,); below 0 is unlabelled.
        neighbour_labels: int64 (q, k).
        similarities: (q, k), the cosines of their features.
        classes: names; may be empty.
        names: captions of the queries (q) and of their neighbours (q, k), in place of their classes.
    """
    rows, k = neighbour_labels.shape
    figure = new_figure(1.3 * (k + 1) + 0.4, 1.66 * rows)
    figure.set_layout_engine("compressed")
    # the narrow column sets the query apart
    grid = figure.subplots(rows, k + 2, squeeze=False, width_ratios=[1, 0.08] + [1] * k)
    images, neighbour_images = (undo_normalise(v, mean, std) for v in (queries, neighbours))
    for i, axes in enumerate(grid):
        own = int(query_labels[i])
        name = plain_text(names[0][i], 17) if names else class_name(classes, own, 17)
        _show_image(axes[0], images[i], f"query\n{name}", "black")
        axes[1].set_axis_off()
        for j in range(k):
            other = int(neighbour_labels[i, j])
            mark, frame = ("✓ ", RIGHT) if own == other else ("✗ ", WRONG)
            if min(own, other) < 0:
                mark, frame = "", GREY
            name = plain_text(names[1][i][j], 17) if names else class_name(classes, other, 17)
            caption = f"{name}\n{mark}cos {float(similarities[i, j]):.2f}"
            _show_image(axes[j + 2], neighbour_images[i, j], caption, frame)
    save_figure(figure, path)
