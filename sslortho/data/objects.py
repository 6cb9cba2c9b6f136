"""Image sets of objects that a Python caller hands over: which kind each is, and how it is read."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from sslortho.data import hugging_face
from sslortho.data.array_images import take_array, to_array
from sslortho.data.broken_images import handle_broken
from sslortho.data.dataset_images import DatasetImages, read_labels, take_items
from sslortho.data.dataset_items import Items, find_labels
from sslortho.data.file_list import list_files
from sslortho.data.first_rank import say
from sslortho.data.image_folder import read_into_memory, settle_files
from sslortho.data.image_sets import ImageSet, Split
from sslortho.data.item_workers import ItemReader
from sslortho.data.labels import Labelling, are_names, check_named_classes
from sslortho.data.options import DataOptions
from sslortho.data.pixel_values import find_white
from sslortho.data.prefetch import share_of_cores

KINDS = (
    "a folder, a file, a name, an array or tensor, a list of files or images, a torch Dataset, a Hugging "
    "Face data set, or (images, labels)"
)


def load_object(
    data: Any,
    options: DataOptions,
    split: Split,
    needs_labels: bool,
    white: float | None = None,
) -> ImageSet:
    """Image set of an object.

    Args:
        data: one of KINDS, or an ImageSet; paths that stand for folders are for `origins.load_place`.
        options: how images are read.
        split: for messages and the list of images that are left out.
        needs_labels: read labels also where each item must be read for that.
        white: see `take_array`.

    Raises ValueError for an object of another kind, and as the kinds do.
    """
    if isinstance(data, ImageSet):
        return data
    images, labels = _split_pair(data)
    labelling = Labelling(labels)
    if options.labels == "none":
        labelling = Labelling()
    if _is_array(images):
        return take_array(images, labelling, options.loader, _name(split), white)
    if _is_list_of_files(images):
        return _take_files(images, labels, options, split)
    if options.labels == "folders":
        raise ValueError("labels='folders' is for folders and lists of files; leave it out")
    _refuse_streams(images)
    if isinstance(images, str | os.PathLike) or not _is_map_style(images):
        raise ValueError(
            f"{_name(split)}={_show(data)} is no images that can be read; give {KINDS}"
        )
    found = _take_dataset(images, labels, options, needs_labels)
    if options.skip_broken:  # by default a user's own __getitem__ is not called for a check
        found, _ = handle_broken(found, split, True, options.skip_list)
    return read_into_memory(found) if options.loader == "tensor" else found


def _name(split: Split) -> str:
    return "data" if split == "train" else "test_data"


def _show(data: Any) -> str:
    shown = repr(data)
    return shown if len(shown) <= 80 else f"<{type(data).__name__}>"


def _split_pair(data: Any) -> tuple[Any, Any]:
    """(images, labels or None): a pair of a collection of images and one of labels, of one length."""
    if not (isinstance(data, tuple) and len(data) == 2):
        return data, None
    images, labels = data
    if isinstance(images, str | os.PathLike | Image.Image) or not _is_map_style(images):
        return data, None
    return images, labels


def _is_array(data: Any) -> bool:
    return isinstance(data, np.ndarray | Tensor) and not (
        isinstance(data, np.ndarray) and data.dtype.kind in "OUS"
    )


def _is_list_of_files(data: Any) -> bool:
    if isinstance(data, np.ndarray):
        return data.dtype.kind in "OU" and all(isinstance(x, str | os.PathLike) for x in data)
    plain = isinstance(data, Sequence) and not isinstance(data, str | bytes)
    return plain and all(isinstance(path, str | os.PathLike) for path in data)


def _is_map_style(data: Any) -> bool:
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def _refuse_streams(data: Any) -> None:
    """Raise ValueError for what can only be read from its beginning to its end."""
    if hugging_face.is_stream(data):
        raise ValueError(
            "data is a Hugging Face data set that streams, whose images have no places, so that neither "
            "order nor resume could be exact; load it without streaming=True"
        )
    if type(data).__name__ == "DataLoader" and hasattr(data, "dataset"):
        raise ValueError(
            "data is a DataLoader; give its Dataset, data.dataset: batches are made here"
        )
    if hasattr(data, "__iter__") and not _is_map_style(data):
        raise ValueError(
            f"data={_show(data)} can only be read from its beginning, so that neither order nor resume "
            f"could be exact; give {KINDS}"
        )


def _take_files(data: Any, labels: Any, options: DataOptions, split: Split) -> ImageSet:
    files = list_files(list(data), options.labels == "folders", options.turns_upright)
    if labels is not None and options.labels == "auto":
        found, classes = Labelling(labels).find(len(files))
        files = type(files)(files.paths, found, classes, files.root, files.upright)
    return settle_files(files, split, options.loader, options.skip_broken, options.skip_list)


def _take_dataset(
    data: Any, labels: Any, options: DataOptions, needs_labels: bool
) -> DatasetImages:
    if hugging_face.is_dataset(data):
        items, labelling = hugging_face.take_columns(
            data, options.image_column, options.label_column, options.turns_upright
        )
        threads = True
    else:
        threads = isinstance(data, list | tuple)
        title = "the list" if threads else "the Dataset"
        items = Items(
            data, options.turns_upright, options.image_column, options.label_column, title
        )
        labelling = Labelling()
        for image in data if threads else ():
            if isinstance(image, Image.Image):
                # it reads its file when it is first used, which threads would do at once
                with contextlib.suppress(OSError, SyntaxError, ValueError):  # said when it is read
                    image.load()
    reader = ItemReader(items, _count_processes(options, threads))
    if labels is not None:
        labelling = Labelling(labels)
    elif labelling.values is None and options.labels != "none":
        labelling = _find_labelling(data, reader, needs_labels)
    if options.labels == "none":
        labelling = Labelling()
    return take_items(reader, labelling)


def _count_processes(options: DataOptions, threads: bool) -> int:
    wanted = options.worker_type or ("threads" if threads else "processes")
    if wanted == "threads":
        return 0
    return share_of_cores() if options.workers is None else options.workers


def _find_labelling(data: Any, reader: ItemReader, needs_labels: bool) -> Labelling:
    """Labels that the Dataset has as a whole, or those in its items, if they are needed."""
    values, classes = find_labels(data)
    if values is None and needs_labels:
        values = read_labels(reader)
    if values is None:
        if not needs_labels and _has_label(reader):
            say(
                f"the labels in the items of {reader.items.title} are not read, which would take a pass over "
                "it; where they are wanted, hand over (dataset, labels)"
            )
        return Labelling()
    labelling = Labelling(values, classes)
    try:
        labelling.find(len(reader.items))
    except ValueError as error:
        if needs_labels:
            raise
        say(f"{reader.items.title} is taken without labels: {error}")
        return Labelling()
    return labelling


def _has_label(reader: ItemReader) -> bool:
    """Whether the first item has a label; an item that cannot be read is named when it is needed."""
    try:
        return len(reader.items) > 0 and reader.read_label(0) is not None
    except Exception:  # the user's own code
        return False


def load_pair(
    data: Any, test_data: Any, options: DataOptions, needs_labels: bool
) -> tuple[ImageSet, ImageSet | None]:
    """Image sets of the objects to train and to test on; those of a DatasetDict are in it."""
    if hugging_face.is_split_dict(data):
        data, found = hugging_face.choose_splits(data)
        test_data = found if test_data is None else test_data
    train = load_object(data, options, "train", needs_labels)
    if test_data is None:
        return train, None
    white = _white_of(data, test_data)
    test_data = _number_alike(data, test_data, train.classes)
    test = load_object(test_data, options, "test", needs_labels, white)
    check_named_classes(train, test, "test_data")
    return train, test


def _number_alike(data: Any, test_data: Any, classes: Sequence[str]) -> Any:
    """The test images, with names of classes as the numbers that they have among the training images.

    The test images may have some of the classes alone. Raises ValueError for names in one and numbers in the
    other.
    """
    ours, theirs = _split_pair(data)[1], _split_pair(test_data)[1]
    if ours is None or theirs is None:
        return test_data
    named = are_names(ours), are_names(theirs)
    if named[0] != named[1]:
        kinds = ("numbers", "names of classes")
        raise ValueError(
            f"the labels of data are {kinds[named[0]]}, and those of test_data are {kinds[named[1]]}; give "
            "both alike"
        )
    if not named[0] or not set(map(str, theirs)) <= set(classes):
        return test_data
    numbers = {name: number for number, name in enumerate(classes)}
    return test_data[0], [numbers[str(name)] for name in theirs]


def _white_of(data: Any, test_data: Any) -> float | None:
    """White of the training images, for test images that must look the same; None if types say it."""
    arrays = [_split_pair(given)[0] for given in (data, test_data)]
    if not all(map(_is_array, arrays)) or arrays[0].dtype != arrays[1].dtype:
        return None
    return find_white(to_array(arrays[0]), "data")
