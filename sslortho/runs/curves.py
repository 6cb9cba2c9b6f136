"""Pictures of a run: training views, and curves against steps."""

from pathlib import Path

from torch import Tensor

from sslortho.evaluate.figures import new_figure, save_figure
from sslortho.train.records import Record


def draw_views(path: Path, views: tuple[Tensor, ...], columns: int = 8) -> None:
    """Draw augmented views: a row for each view, a column for each image.

    The height of a row is in proportion to the size of its view.

    Args:
        views: tensors (batch, 3, height, width), normalised as for training; sizes may differ. Each
            view is scaled to its own range of values.
        columns: images shown.
    """
    columns = min(columns, len(views[0]))
    largest = max(view.shape[2] for view in views)
    heights = [view.shape[2] / largest for view in views]
    figure = new_figure(1.2 * columns + 0.6, 1.3 * sum(heights))
    axes = figure.subplots(len(views), columns, squeeze=False, height_ratios=heights)
    for row, view in enumerate(views):
        shown = view[:columns].float().cpu()
        low, high = shown.amin(dim=(0, 2, 3)), shown.amax(dim=(0, 2, 3))
        shown = (shown - low.view(1, -1, 1, 1)) / (high - low).clamp_min(1e-6).view(1, -1, 1, 1)
        for axis, image in zip(axes[row], shown, strict=True):
            axis.imshow(image.permute(1, 2, 0).numpy())
            axis.set_xticks([])
            axis.set_yticks([])
        axes[row][0].set_ylabel(f"view {row + 1}", rotation=0, ha="right", va="center")
    save_figure(figure, path)


def _series(records: list[Record], name: str) -> tuple[list[float], list[float]]:
    points = [(r["step"], r[name]) for r in records if r.get(name) is not None]
    points = points[:: max(1, len(points) // MOST_POINTS)]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return list(steps), list(values)  # pyright: ignore[reportReturnType]


MOST_POINTS = 2000
"""Approximate maximum number of points per curve: more than a picture has pixels."""

ACCURACIES = {
    "val_top1": "held-out top-1 (%)",
    "top1": "test top-1 (%)",
    "val_knn_top1": "held-out kNN top-1 (%)",
    "knn_top1": "kNN top-1 (%)",
}
"""Accuracies that may be drawn beside the loss, with their labels; the first one recorded is."""


def draw_curves(path: Path, runs: dict[str, list[Record]], title: str = "") -> None:
    """Draw loss and accuracy against steps, a line for each run.

    The accuracy is that of held-out images if there are some, else of test images, else of kNN.

    Args:
        path: the picture.
        runs: label to records of a metrics.jsonl.
        title: above the picture.
    """
    known = {name for records in runs.values() for record in records for name in record}
    accuracy = next((name for name in ACCURACIES if name in known), "knn_top1")
    panels = {"loss": "loss", accuracy: ACCURACIES[accuracy]}
    figure = new_figure(10, 4)
    for axis, (name, label) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for run, records in runs.items():
            steps, values = _series(records, name)
            axis.plot(steps, values, label=run, marker="o" if len(steps) < 30 else None)
        axis.set_xlabel("step")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    losses = [loss for records in runs.values() for loss in _series(records, "loss")[1]]
    if losses and min(losses) > 0:  # a negative cosine has no logarithm
        figure.axes[0].set_yscale("log")
        for choose in (figure.axes[0].yaxis.set_major_formatter,
                       figure.axes[0].yaxis.set_minor_formatter):  # fmt: skip
            choose("{x:g}")  # no powers of ten
    if len(runs) > 1:
        figure.axes[0].legend()
    figure.suptitle(title)
    save_figure(figure, path)
