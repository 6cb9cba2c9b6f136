"""An experiment on other terms than the paper's: fewer cells, epochs or images, other data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sslortho.paper.grid import Cell, Experiment, Table, nearest

TRAINING_IMAGES = {"digits": 1437, "cifar10": 50_000, "cifar100": 50_000}
"""How many there are, where that is known beforehand."""

SMALL_IMAGES = 32
"""Side in pixels of the images of these data sets."""

LEAST_STEPS = 8
"""Steps of an epoch below which a batch is made smaller: one or two steps would train nothing."""


def select_cells(experiment: Experiment, only: Sequence[str]) -> Experiment:
    """The cells of these rows and columns; of an axis that no key names, all.

    Raises ValueError for a key that is neither, naming the nearest, and where no cell is left.
    """
    rows = [key for key in only if key in experiment.rows]
    columns = [key for key in only if key in experiment.columns]
    for key in only:
        if key not in rows and key not in columns:
            known = [*experiment.rows, *experiment.columns]
            raise ValueError(
                f"only: {key!r} is no row or column of {experiment.name}{nearest(key, known)}; "
                f"they are {', '.join(known)}"
            )
    cells = [
        cell
        for cell in experiment.cells
        if (not rows or cell.row in rows) and (not columns or cell.column in columns)
    ]
    if not cells:
        raise ValueError(f"only={','.join(only)!r} leaves no cell of {experiment.name}")
    return _with_cells(experiment, cells)


def _with_cells(experiment: Experiment, cells: Sequence[Cell]) -> Experiment:
    """The experiment of these cells alone, as if the others had never been there."""
    names = {cell.name for cell in cells}
    tables = [
        Table(t.title, t.figure, {name: f for name, f in t.paper.items() if name in names})
        for t in experiment.tables
    ]
    plots = [
        replace(plot, cells=tuple(name for name in plot.cells if name in names))
        for plot in experiment.plots
    ]
    rows, columns = {cell.row for cell in cells}, {cell.column for cell in cells}
    return replace(
        experiment,
        rows={key: label for key, label in experiment.rows.items() if key in rows},
        columns={key: label for key, label in experiment.columns.items() if key in columns},
        cells=tuple(cells),
        tables=tuple(tables),
        plots=tuple(plot for plot in plots if plot.cells),
    )


def _with_epochs(options: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """So many epochs, with what happens at an epoch moved in proportion."""
    share = epochs / options["epochs"]
    moved: dict[str, Any] = {"epochs": epochs}
    if "milestones" in options:
        moved["milestones"] = [share * epoch for epoch in options["milestones"]]
    if "warmup_epochs" in options:
        moved["warmup_epochs"] = share * options["warmup_epochs"]
    return {**options, **moved}


def _with_data(options: Mapping[str, Any], data: str) -> dict[str, Any]:
    """Views that suit other data than the paper's."""
    changed: dict[str, Any] = {"views": "auto"} if "views" in options else {}
    if data in TRAINING_IMAGES and options.get("crop_size", 0) > SMALL_IMAGES:
        changed["crop_size"] = SMALL_IMAGES
    return {**options, **changed}


def _with_images(options: Mapping[str, Any], images: int) -> dict[str, Any]:
    """A batch of which an epoch of `images` has LEAST_STEPS, and a record four times an epoch."""
    trained = round(images * (1 - options.get("validation", 0)))
    batch_size = options["batch_size"]
    if trained // batch_size < LEAST_STEPS:
        # a power of two; two, since batch norm has no variance of one
        batch_size = min(batch_size, max(2, 1 << (max(1, trained // LEAST_STEPS).bit_length() - 1)))
    changed = {"batch_size": batch_size}
    if "log_every" in options:
        steps = trained // batch_size
        changed["log_every"] = max(1, min(options["log_every"], steps // 4))
    return {**options, **changed}


def fit_subset(data: str, subset: int | None) -> int | None:
    """So many images, or None, which is all, where there are not so many."""
    return None if subset is None or subset > TRAINING_IMAGES.get(data, math.inf) else subset


def adapt(
    experiment: Experiment,
    data: str | None = None,
    epochs: int | None = None,
    subset: int | None = None,
) -> Experiment:
    """The experiment on other terms than the paper's; None leaves one as it is.

    Milestones and warm-up move with the epochs. Other data have views "auto", and small images no
    large crops. Where the images are so few that an epoch would have less than LEAST_STEPS, the
    batch is lowered to a power of two.
    """
    data = data or experiment.data
    known = [number for number in (subset, TRAINING_IMAGES.get(data)) if number is not None]

    def change(cell: Cell) -> Cell:
        options = dict(cell.options)
        if data != experiment.data:
            options = _with_data(options, data)
        if epochs is not None:
            options = _with_epochs(options, epochs)
        if known:
            options = _with_images(options, min(known))
        return replace(cell, options=options)

    return replace(experiment, data=data, cells=tuple(change(cell) for cell in experiment.cells))


def differing_settings(paper: Experiment, ours: Experiment, *ignored: str) -> dict[str, Any]:
    """Options of our cells that the paper's do not have so: the value, or values, by name."""
    found: dict[str, list[Any]] = {}
    for theirs, cell in zip(paper.cells, ours.cells, strict=True):
        for name, value in cell.options.items():
            if name not in ignored and theirs.options.get(name) != value:
                values = found.setdefault(name, [])
                if value not in values:
                    values.append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}
