"""Maps of the same images by several networks, turned to fit each other: as a strip, or as an animation."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslortho.atomic import atomic_file
from sslortho.evaluate.figures import COLOURS, DPI, GREY, MARKERS, new_figure, save_figure
from sslortho.evaluate.pictures import class_name

COLUMNS = 6
"""Maps beside each other in a strip."""

HOLD = 3
"""Times that the last map of an animation is shown longer than each other one."""


def turn_to_fit(points: Tensor, before: Tensor) -> Tensor:
    """Turn or mirror points (n, 2) so that they lie nearest to `before` (n, 2): orthogonal Procrustes.

    Both are taken as centred. Distances between the points stay as they are (Schönemann, Psychometrika 1966).
    """
    u, _, vh = torch.linalg.svd(points.mT @ before)
    return points @ u @ vh


def draw_strip(
    path: Path,
    maps: Sequence[Tensor],
    labels: Tensor,
    classes: Sequence[str],
    captions: Sequence[str],
    title: str = "",
    seconds: float = 0.6,
) -> None:
    """Draw maps beside each other, or in a .gif one after the other, each on a scale of its own.

    Args:
        path: the picture; .gif is an animation.
        maps: k tensors (n, 2), of the same n images.
        labels: int64 (n,); below 0 is unlabelled. The first 20 classes have colours.
        classes: their names; may be empty.
        captions: k, above each map.
        title: above all of them.
        seconds: that a map of an animation is shown.

    Raises ValueError for a suffix that is not known.
    """
    if path.suffix.lower() == ".gif":
        _write_animation(path, maps, labels, classes, captions, title, seconds)
        return
    columns = min(COLUMNS, len(maps))
    rows = -(-len(maps) // columns)
    figure = new_figure(2.5 * columns + 1.2, 2.75 * rows + 0.3)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, places, caption in zip(axes, maps, captions, strict=False):
        _draw_map(axis, places, labels, 11.0)
        axis.set_title(caption, fontsize="medium")
    for axis in axes[len(maps) :]:
        axis.remove()
    _name_classes(figure, labels, classes)
    figure.suptitle(title)
    save_figure(figure, path)


def _shown_classes(labels: Tensor) -> list[int]:
    return labels[labels >= 0].unique().tolist()[:20]


def _style(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def _draw_map(axis: Any, places: Tensor, labels: Tensor, size: float) -> None:
    shown = _shown_classes(labels)
    rest = ~torch.isin(labels, torch.tensor(shown, dtype=labels.dtype))
    grey = GREY if shown else COLOURS[0]
    axis.scatter(*places[rest].mT, s=size, linewidths=0, color=grey, alpha=0.5)
    for number, label in enumerate(shown):
        axis.scatter(*places[labels == label].mT, s=size, linewidths=0, alpha=0.8, **_style(number))
    axis.set_xticks([])
    axis.set_yticks([])
    middle = (places.amax(dim=0) + places.amin(dim=0)) / 2
    half = 0.54 * float((places.amax(dim=0) - places.amin(dim=0)).max()) or 1.0
    for limit, centre in zip((axis.set_xlim, axis.set_ylim), middle.tolist(), strict=True):
        limit(centre - half, centre + half)
    axis.set_box_aspect(1)


def _name_classes(figure: Any, labels: Tensor, classes: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    shown = _shown_classes(labels)
    handles = [Line2D([], [], linestyle="", markersize=6, **_style(i)) for i in range(len(shown))]
    names = [class_name(classes, label, 14) for label in shown]
    if handles:
        legend = figure.legend(handles, range(len(handles)), loc="outside right center",
                               frameon=False, fontsize="small")  # fmt: skip
        for text, name in zip(legend.texts, names, strict=True):
            text.set_text(name)


def _write_animation(
    path: Path,
    maps: Sequence[Tensor],
    labels: Tensor,
    classes: Sequence[str],
    captions: Sequence[str],
    title: str,
    seconds: float,
) -> None:
    from PIL import Image

    frames = []
    for places, caption in zip(maps, captions, strict=True):
        figure = new_figure(5.2, 4.6)
        axis = figure.subplots()
        _draw_map(axis, places, labels, 14.0)
        axis.set_title("\n".join(filter(None, (title, caption))), fontsize="medium")
        _name_classes(figure, labels, classes)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DPI)
        frames.append(Image.open(file).convert("RGB").quantize(64))
    shown = [round(1000 * seconds)] * (len(frames) - 1) + [round(1000 * seconds * HOLD)]
    with atomic_file(path) as file:
        frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=shown, loop=0)
