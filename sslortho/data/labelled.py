"""Labelled images to train and to test on, loaded and checked together."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from sslortho.data.image_sets import ImageSet
from sslortho.data.loading import check_workers, load_test_set, load_training_set, name_data
from sslortho.data.options import PATH, DataOptions
from sslortho.data.subsets import balanced_subset, named_subset
from sslortho.options import GIVEN


@dataclass(frozen=True)
class LabelledData:
    """Labelled images to train and to test on."""

    train: ImageSet
    tested: ImageSet | None
    """Images to test on; None where there are none, and none are needed."""
    classes: tuple[str, ...]
    """Names of the classes, or their numbers where they have no names."""

    @property
    def test(self) -> ImageSet:
        """Images to test on, where they are needed."""
        assert self.tested is not None
        return self.tested


def load_labelled_data(
    options: DataOptions,
    given: tuple[ImageSet | None, ImageSet | None] = (None, None),
    *,
    needs_test: bool = True,
) -> LabelledData:
    """Load and check labelled training and test images.

    Args:
        options: which, and how they are read.
        given: the images themselves, where a Python caller has handed them over.
        needs_test: False where data without test images will do.

    Raises ValueError if labels, or test images that are needed, are missing, or if they do not go together, and
    as `check_workers`.
    """
    train = load_training_set(options, given[0])
    test = load_test_set(options, given[1], train)
    if test is None and needs_test:
        raise ValueError(
            f"{name_data(options)} has no test images; {_NEEDS_TEST.get(options.data, 'add test/ or val/')}"
        )
    check_workers(options, train, test)
    for name, data in (("training", train), ("test", test)):
        if data is not None and int(data.labels.min()) < 0:
            raise ValueError(
                f"{name_data(options)}: the {name} images have no labels; {_name_remedy(options)}"
            )
    names = train.classes or tuple(str(i) for i in range(int(train.labels.max()) + 1))
    found = 0 if test is None else int(test.labels.max()) + 1
    if found > len(names):
        raise ValueError(
            f"the test images are of {found} classes, the training images of {len(names)}; they must "
            "be of one data set"
        )
    return LabelledData(train, test, names)


_NEEDS_TEST = {GIVEN: "give test_data", PATH: "add test/ or val/, or give test_data"}
"""Ways to test images, of the user's own."""


def _name_remedy(options: DataOptions) -> str:
    """Way to labels."""
    if options.data == GIVEN:
        return "give (images, labels)"
    if options.data == PATH:
        return "class folders are needed: --labels folders takes the folders for classes"
    return "class folders are needed"


def choose_training_images(
    options: DataOptions, data: LabelledData, train_percent: float | None, train_list: str | None
) -> LabelledData:
    """Keep a share of the training images, or those that a file names; None for all.

    Raises ValueError if they are too few, or all of one class.
    """
    train = data.train
    if train_percent is not None:
        train = _share(train, train_percent, len(data.classes), options.seed)
    if train_list is not None:
        train = named_subset(train, Path(train_list))
    return check_classes(options, replace(data, train=train))


def check_classes(options: DataOptions, data: LabelledData) -> LabelledData:
    """Return the same data, with a warning if some class has no training images.

    Raises ValueError if the training images are all of one class.
    """
    labels, names = data.train.labels, data.classes
    present = len(labels.unique())
    if present < 2:
        raise ValueError(
            f"{name_data(options)}: the training images are of one class alone "
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
