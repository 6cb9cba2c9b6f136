"""Labelled images to learn from and to be judged on."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from sslortho.recipes.data import load_test_set, load_training_set
from sslortho.recipes.options import DataOptions
from sslortho.recipes.linear_eval.options import BackboneOptions
from sslortho.data import ImageSet, balanced_subset, named_subset


@dataclass(frozen=True)
class LabelledData:
    """Labelled images to fit on and to test on."""

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]


def load_labelled_data(config: DataOptions) -> LabelledData:
    """Training and test images, checked.

    Raises ValueError where labels or test images are missing, or do not fit each other.
    """
    train, test = load_training_set(config), load_test_set(config)
    if test is None:
        raise ValueError(f"data_dir={config.data_dir!r} has no test images; add test/ or val/")
    for name, data in (("training", train), ("test", test)):
        if int(data.labels.min()) < 0:
            raise ValueError(
                f"data={config.data!r}, data_dir={config.data_dir!r}: the {name} images have no labels; "
                "class folders are needed"
            )
    names = train.classes or tuple(str(i) for i in range(int(train.labels.max()) + 1))
    found = int(test.labels.max()) + 1
    if found > len(names):
        raise ValueError(
            f"the test images are of {found} classes, the training images of {len(names)}; they must "
            "be of one data set"
        )
    return LabelledData(train, test, names)


def choose_training_images(config: BackboneOptions, data: LabelledData) -> LabelledData:
    """The training images that the configuration asks for.

    Raises ValueError where they are too few, or of one class alone.
    """
    train = data.train
    if config.train_percent is not None:
        train = _share(train, config.train_percent, len(data.classes), config.seed)
    if config.train_list is not None:
        train = named_subset(train, Path(config.train_list))
    return check_classes(config, replace(data, train=train))


def check_classes(config: DataOptions, data: LabelledData) -> LabelledData:
    """The same data; ValueError if the training images are of one class, a warning if some is absent."""
    labels, names = data.train.labels, data.classes
    present = len(labels.unique())
    if present < 2:
        raise ValueError(
            f"data={config.data!r}: the training images are of one class alone "
            f"({names[int(labels[0])]}); two are needed"
        )
    if present < len(names):
        warnings.warn(
            f"only {present} of {len(names)} classes have training images; test images of the others "
            "count as mistakes",
            stacklevel=2,
        )
    return data


def _share(train: ImageSet, percent: float, classes: int, seed: int) -> ImageSet:
    size = round(len(train) * percent / 100)
    if size == len(train):
        return train
    if size < classes:
        raise ValueError(
            f"train_percent={percent} leaves {size} of {len(train)} images for {classes} classes; "
            "raise it"
        )
    smallest = int(train.labels.unique(return_counts=True)[1].min())
    if -(-size // classes) > smallest:
        raise ValueError(
            f"train_percent={percent} takes {-(-size // classes)} images of each class, and one has "
            f"{smallest}; lower it, or name the images by train_list"
        )
    return balanced_subset(train, size, seed)
