"""Data sets of Hugging Face's `datasets`, known by their methods: the package is not imported here."""

from typing import Any

from sslortho.data.dataset_items import IMAGE_KEYS, LABEL_KEYS, Items
from sslortho.data.labels import Labelling

PACKAGE = "datasets"

TRAIN_NAMES, TEST_NAMES = ("train",), ("test", "validation", "val", "valid")
"""Names of the splits of a DatasetDict that are trained and tested on; the first that there is."""


def _is_of_package(data: Any, name: str) -> bool:
    found = [cls for cls in type(data).__mro__ if cls.__name__ == name]
    return any(cls.__module__.split(".")[0] == PACKAGE for cls in found)


def is_split_dict(data: Any) -> bool:
    """Whether it is a DatasetDict: several splits by name."""
    return _is_of_package(data, "DatasetDict") or _is_of_package(data, "IterableDatasetDict")


def is_dataset(data: Any) -> bool:
    """Whether it is a map-style Dataset of Hugging Face's."""
    return _is_of_package(data, "Dataset") and hasattr(data, "column_names")


def is_stream(data: Any) -> bool:
    """Whether it is one of Hugging Face's that can only be read from its beginning."""
    return _is_of_package(data, "IterableDataset")


def choose_splits(data: Any) -> tuple[Any, Any | None]:
    """Splits of a DatasetDict to train and to test on; None if there is none to test on.

    Raises ValueError if there is none to train on.
    """
    train = next((data[name] for name in TRAIN_NAMES if name in data), None)
    if train is None:
        raise ValueError(
            f"data, a DatasetDict, has no split 'train' but {', '.join(map(str, data))}; give one of them, "
            f"such as data[{next(iter(data), 'train')!r}]"
        )
    return train, next((data[name] for name in TEST_NAMES if name in data), None)


def take_columns(
    data: Any,
    image_column: str | None = None,
    label_column: str | None = None,
    upright: bool = True,
) -> tuple[Items, Labelling]:
    """Items and labels of a Dataset of Hugging Face's.

    Images are read as the files that they were, whatever format or transform the Dataset has, and decoded
    as files are.

    Args:
        data: map-style.
        image_column: column of the images. Default: the only one of the type Image, or the one with a
            name of IMAGE_KEYS.
        label_column: column of the labels. Default: the only ClassLabel, or the one with a name of
            LABEL_KEYS.
        upright: turn images as their EXIF data say.

    Raises ValueError for a column that does not exist, and where several could be meant.
    """
    data = data.with_format(None)
    features = dict(data.features)
    image = _choose(features, image_column, "Image", IMAGE_KEYS, "image_column")
    if image is None:
        raise ValueError(
            f"data has no column of images (it has {', '.join(features)}); name it by image_column"
        )
    label = _choose(features, label_column, "ClassLabel", LABEL_KEYS, "label_column")
    pictures = data.select_columns([image])
    if type(features[image]).__name__ == "Image":
        pictures = pictures.cast_column(image, type(features[image])(decode=False))
    else:
        pictures = pictures.with_format("numpy")
    items = Items(pictures, upright, image, title="the Hugging Face data set")
    if label is None:
        return items, Labelling()
    names = getattr(features[label], "names", None)
    values = data.select_columns([label])[:][label]
    given = label_column is not None
    if not given and any(value is None or isinstance(value, list | float) for value in values):
        return items, Labelling()
    return items, Labelling(values, tuple(names or ()))


def _choose(
    features: dict[str, Any], given: str | None, kind: str, names: tuple[str, ...], option: str
) -> str | None:
    """Column that is given, or the only one of a type, or the one with a known name; None without any."""
    if given is not None:
        if given not in features:
            raise ValueError(f"{option}={given!r} is not one of {', '.join(features)}")
        return given
    of_kind = [name for name, feature in features.items() if type(feature).__name__ == kind]
    if len(of_kind) == 1:
        return of_kind[0]
    named = [name for name in names if name in (of_kind or features)]
    if named or not of_kind:
        return named[0] if named else None
    raise ValueError(
        f"data has {len(of_kind)} columns of the type {kind} ({', '.join(of_kind)}); name one by {option}"
    )
