"""Labels that come with a user's own images, made int64."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslortho.data.image_sets import ImageSet

MOST_CLASSES = 10_000_000
"""Number that every label is below. A classifier has an output for each number up to the largest, and numbers
beyond are those of people or times; WebFace260M (arXiv 2103.04098) has 4 million classes."""


def check_named_classes(train: ImageSet, test: ImageSet, given: str) -> None:
    """Raise ValueError if both have names of classes, and others: equal numbers would be other classes.

    Args:
        train, test: images to train and to test on.
        given: argument that the test images come from, for the message.
    """
    if not train.classes or not test.classes or train.classes == test.classes:
        return
    different = sorted(set(train.classes).symmetric_difference(test.classes))
    some = ", ".join(different[:3])
    how = f"{some} in one alone" if different else "they are in another order"
    raise ValueError(
        f"{given} does not have the classes of the training images ({how}); labels would not match; give "
        "images of the same classes"
    )


@dataclass(frozen=True)
class Labelling:
    """Labels of images in their order, before it is known how many images there are."""

    values: Any = None
    """Whole numbers (n,), of which -1 is none, or names of classes; None: no labels."""
    classes: tuple[str, ...] = ()
    """Names of the classes, by number, where they are known."""

    def find(self, count: int) -> tuple[Tensor, tuple[str, ...]]:
        """(labels int64 (count,), names of the classes).

        Names of classes are numbered in their sorted order. Raises ValueError for another number of labels
        than images, and for what are no labels.
        """
        if self.values is None:
            return torch.full((count,), -1), ()
        values = self.values
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.shape != (count,):
            raise ValueError(
                f"labels of shape {array.shape} do not fit {count} images; give one for each"
            )
        if are_names(array):
            return _number(array.astype(str))
        return _check_numbers(array, self.classes), self.classes


def are_names(labels: Any) -> bool:
    """Whether labels, of whatever shape, are names of classes, and not numbers."""
    if isinstance(labels, Tensor):
        return False
    array = np.asarray(labels)
    texts = array.dtype == object and all(isinstance(value, str) for value in array.flat)
    return array.dtype.kind in "US" or (texts and array.size > 0)


def _number(names: Sequence[str] | Any) -> tuple[Tensor, tuple[str, ...]]:
    known, places = np.unique(names, return_inverse=True)
    return torch.from_numpy(places.astype(np.int64)), tuple(map(str, known))


def _check_numbers(array: Any, classes: tuple[str, ...]) -> Tensor:
    whole = array.dtype.kind in "iub"
    if not whole and array.dtype.kind == "f":
        whole = bool(np.isfinite(array).all() and (array == np.round(array)).all())
    if not whole:
        raise ValueError(
            f"labels of type {array.dtype} are no classes; give whole numbers or names"
        )
    low, high = int(array.min()), int(array.max())
    if low < -1:
        raise ValueError(f"labels from {low} to {high} must be 0 or more; -1 is for none")
    if high >= MOST_CLASSES:
        raise ValueError(
            f"label {high} is no number of a class, which are below {MOST_CLASSES:,}; number the classes from 0"
        )
    if classes and high >= len(classes):
        raise ValueError(f"label {high} is beyond the {len(classes)} classes that have names")
    return torch.from_numpy(array.astype(np.int64))
