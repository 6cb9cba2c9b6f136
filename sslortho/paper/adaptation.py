"""An experiment changed from the paper's: fewer cells, epochs or images, other data."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sslortho.options import nearest
from sslortho.paper.grid import Cell, Experiment, Table
from sslortho.runs.several.jobs import TRAINING_IMAGES

SMALL_IMAGES = 32
"""Largest side in pixels of the images of the data sets in TRAINING_IMAGES."""

LEAST_STEPS = 8
"""Steps of an epoch below which the batch is made smaller: one or two steps would train nothing."""


def select_cells(experiment: Experiment, only: Sequence[str]) -> Experiment:
    """The experiment with the cells of these rows and columns only.

    Args:
        experiment: to choose from.
        only: keys of rows and columns. An axis that no key names is kept whole.

    Raises ValueError for a key that is neither a row nor a column, and if no cell is left.
    """
    rows = [key for key in only if key in experiment.rows]
    columns = [key for key in only if key in experiment.columns]
    for key in only:
        if key not in rows and key not in columns:
            known = [*experiment.rows, *experiment.columns]
            raise ValueError(
                f"only: {key!r} is not a row or column of {experiment.name}{nearest(key, known)}; "
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
    """The experiment with these cells only; tables and plots lose what belongs to the others."""
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
    """Options for another number of epochs; milestones and warm-up move in proportion."""
    share = epochs / options["epochs"]
    moved: dict[str, Any] = {"epochs": epochs}
    if "milestones" in options:
        moved["milestones"] = [share * epoch for epoch in options["milestones"]]
    if "warmup_epochs" in options:
        moved["warmup_epochs"] = share * options["warmup_epochs"]
    return {**options, **moved}


def _with_data(options: Mapping[str, Any], data: str) -> dict[str, Any]:
    """Options with views that suit other data than the paper's."""
    changed: dict[str, Any] = {"views": "auto"} if "views" in options else {}
    if data in TRAINING_IMAGES and options.get("crop_size", 0) > SMALL_IMAGES:
        changed["crop_size"] = SMALL_IMAGES
    return {**options, **changed}


def _with_images(options: Mapping[str, Any], images: int) -> dict[str, Any]:
    """Options for this many images: an epoch has at least LEAST_STEPS steps and four records."""
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


def adapt(
    experiment: Experiment,
    data: str | None = None,
    epochs: int | None = None,
    subset: int | None = None,
    mixed_precision: str | None = None,
) -> Experiment:
    """The experiment on other data, for other epochs, with fewer images or in another precision; None
    changes nothing.

    Milestones and warm-up move with the epochs. Other data have views "auto", and small images no
    large crops. If an epoch of so few images would have fewer than LEAST_STEPS steps, the batch is
    lowered to a power of two.

    Raises ValueError for mixed_precision="auto" of an experiment whose command does not have it.
    """
    if mixed_precision == "auto" and experiment.command != "pretrain":
        raise ValueError(
            f"mixed_precision='auto' must be no, fp16 or bf16 for {experiment.name}, whose runs are of "
            f"{experiment.command}; only pretrain knows auto"
        )
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
        if mixed_precision is not None:
            options["mixed_precision"] = mixed_precision
        return replace(cell, options=options)

    return replace(experiment, data=data, cells=tuple(change(cell) for cell in experiment.cells))


def differing_settings(paper: Experiment, ours: Experiment, *ignored: str) -> dict[str, Any]:
    """Options in which our cells differ from the paper's: name to our value, or list of values."""
    found: dict[str, list[Any]] = {}
    for theirs, cell in zip(paper.cells, ours.cells, strict=True):
        for name, value in cell.options.items():
            if name not in ignored and theirs.options.get(name) != value:
                values = found.setdefault(name, [])
                if value not in values:
                    values.append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}
