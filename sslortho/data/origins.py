"""Image sets of a user's own path: the kind is told from what is there."""

import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslortho.data.array_images import take_array
from sslortho.data.beton.images import load_beton, open_beton
from sslortho.data.broken_images import handle_broken
from sslortho.data.datasets import check_beton
from sslortho.data.file_list import read_list
from sslortho.data.folder_walk import (
    IMAGE_SUFFIXES,
    list_files,
    list_folders,
    list_loose_images,
)
from sslortho.data.image_files import ImageFiles
from sslortho.data.image_folder import read_into_memory, settle_files
from sslortho.data.image_sets import ImageSet, Split
from sslortho.data.labels import Labelling, check_named_classes
from sslortho.data.names import to_line
from sslortho.data.options import PATTERN, DataOptions
from sslortho.data.own_folders import scan_own_folder
from sslortho.data.pixel_values import find_white
from sslortho.data.shard_files import expand_shards, is_address
from sslortho.data.tar_shards import load_shards

ARRAY_SUFFIXES = (".npy", ".npz")

LIST_SUFFIXES = (".txt", ".lst")

TEST_SHARD = re.compile(r"(test|val|valid|validation)(?![a-z])", re.IGNORECASE)
"""Beginning of the name of a shard to test on."""


def load_place(
    path: str, options: DataOptions, split: Split, check: bool = True
) -> ImageSet | None:
    """Images of a split at a path; None for "test" if there are none.

    A path that is no folder holds training images alone.

    Args:
        path: of a folder or a file.
        options: how images are read.
        split: "train" or "test".
        check: look for broken images; without it folders, lists and shards are given as they are.

    Raises ValueError for a path that is none of the kinds, and as the kinds do.
    """
    place = Path(path)
    if not place.is_dir():
        return load_file(path, options, "train", check) if split == "train" else None
    if parts := _find_shards(place):
        chosen = parts[split]
        if split == "train" and not chosen:
            raise ValueError(
                f"data={path!r} holds shards to test on alone, {to_line(Path(parts['test'][0]).name)} first; "
                f"to train on them give a pattern, {str(place / '*.tar')!r}"
            )
        return _load_shards(chosen, options, split, check) if chosen else None
    if (place / "train.beton").is_file():
        found = load_beton(place, split)
        return check_beton(found, split, options.skip_broken, options.skip_list)
    return _load_folder(place, options, split, split, check)


def load_test_place(path: str, options: DataOptions, train: ImageSet) -> ImageSet:
    """All images at a path, to test on; their folders are classes if those of the training images are.

    Raises ValueError as `load_place`, and for other classes than those of the training images.
    """
    place = Path(path)
    if place.is_dir() and any(parts := _find_shards(place).values()):
        test = _load_shards([shard for part in parts for shard in part], options, "test")
    elif place.is_dir():
        labelled = bool(train.classes) and options.labels != "none"
        options = replace(options, labels="folders" if labelled else "none")
        test = _load_folder(place, options, "train", "test")
    else:
        test = load_file(path, options, "test", white=_white_of_training(options, place))
    assert test is not None
    check_named_classes(train, test, f"test_data={path!r}")
    return test


def _load_folder(
    folder: Path, options: DataOptions, part: Split, split: Split, check: bool = True
) -> ImageSet | None:
    """Image files of a part of a folder, for use as a split."""
    files = scan_own_folder(
        folder, part, options.labels, options.follow_links, options.turns_upright
    )
    if files is None:
        return None
    return _settle(files, split, options, check)


def _settle(files: ImageFiles, split: Split, options: DataOptions, check: bool) -> ImageSet:
    """Image files, checked and perhaps read into memory; as they are if they are not to be checked."""
    if not check:
        return files
    return settle_files(files, split, options.loader, options.skip_broken, options.skip_list)


def load_file(
    path: str,
    options: DataOptions,
    split: Split,
    check: bool = True,
    white: float | None = None,
) -> ImageSet:
    """Images of a file: .beton, .npy, .npz or a list of image files.

    Args:
        path: of the file.
        options, split, check: as for `load_place`.
        white: of an array; see `take_array`.

    Raises ValueError for another kind of file, and as the kinds do.
    """
    place, suffix = Path(path), Path(path).suffix.lower()
    broken = options.skip_broken, options.skip_list
    if suffix == ".tar" or is_address(path):
        return _load_shards(expand_shards(path), options, split, check)
    if any(character in path for character in PATTERN) and not place.exists():
        raise ValueError(
            f"data={path!r} is a pattern, and only patterns of shards, .tar, are known"
        )
    if not place.is_file():
        raise ValueError(f"data={path!r} does not exist; give a folder or a file of images")
    if suffix == ".beton":
        found = check_beton(open_beton(place), split, *broken)
        assert found is not None
        return found
    if suffix in ARRAY_SUFFIXES:
        return _load_array(place, options, white)
    if suffix in LIST_SUFFIXES:
        files = read_list(place, options.labels == "folders", options.turns_upright)
        return _settle(files, split, options, check)
    if suffix in IMAGE_SUFFIXES:
        raise ValueError(f"data={path!r} is one image; give the folder that it lies in")
    raise ValueError(
        f"data={path!r} is no file of images; give a folder, or a file .beton, .npy, .npz, .tar, or .txt with "
        "a path a line"
    )


def _find_shards(folder: Path) -> dict[Split, list[str]]:
    """Shards of a folder that holds nothing but shards and small files; empty if it holds other things.

    Those whose names begin with test, val, valid or validation are to test on.
    """
    names = [name for name in list_files(folder) if name.endswith(".tar")]
    if not names or list_folders(folder) or list_loose_images(folder):
        return {}
    test = [name for name in names if TEST_SHARD.match(name)]
    shards: dict[Split, list[str]] = {"train": [n for n in names if n not in test], "test": test}
    return {split: [str(folder / name) for name in found] for split, found in shards.items()}


def _load_shards(
    places: list[str], options: DataOptions, split: Split, check: bool = True
) -> ImageSet:
    if options.labels == "folders":
        raise ValueError("labels='folders' has no effect on shards, whose labels are .cls or .json")
    labelled = options.labels != "none"
    shards = load_shards(places, options.turns_upright, options.image_column, labelled)
    if check:
        shards, _ = handle_broken(shards, split, options.skip_broken, options.skip_list)
    return read_into_memory(shards) if options.loader == "tensor" else shards


def _load_array(path: Path, options: DataOptions, white: float | None = None) -> ImageSet:
    """Images of a file of NumPy's. Raises ValueError as `_read_arrays` and `take_array`."""
    arrays = _read_arrays(path)
    labels = None if options.labels == "none" else arrays.get("labels")
    return take_array(arrays["images"], Labelling(labels), options.loader, str(path), white)


def _white_of_training(options: DataOptions, test: Path) -> float | None:
    """White of the training images for a file of test images, if both are arrays of one type."""
    train = Path(options.data_dir or "")
    if {train.suffix.lower(), test.suffix.lower()} - set(ARRAY_SUFFIXES):
        return None
    values = _read_arrays(train)["images"]
    same = values.dtype == _read_arrays(test)["images"].dtype
    return find_white(values, str(train)) if same else None


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Arrays of a file of NumPy's: "images" and perhaps "labels"; a .npy is the images.

    Raises ValueError for a file that is damaged, holds Python objects, or lacks "images".
    """
    try:
        content = np.load(path, mmap_mode="r", allow_pickle=False)
        arrays = {"images": content} if isinstance(content, np.ndarray) else dict(content)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"data={str(path)!r} cannot be read as arrays ({error})") from error
    if "images" not in arrays:
        raise ValueError(
            f"data={str(path)!r} holds {', '.join(arrays) or 'nothing'}; it must have an array 'images'"
        )
    return arrays
