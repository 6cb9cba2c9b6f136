"""Folders of image files: found and checked, so that what is wrong is named before training."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sslortho.data.broken_images import describe_broken, handle_broken
from sslortho.data.decoding import BrokenImageError
from sslortho.data.folder_walk import (
    IMAGE_SUFFIXES,
    Links,
    is_image_name,
    list_folders,
    list_loose_images,
    walk_files,
)
from sslortho.data.image_files import ImageFiles
from sslortho.data.image_sets import SMALL_SIDE, ImageArray, ImageSet, Split
from sslortho.data.names import compose, to_line
from sslortho.data.prefetch import map_in_pieces
from sslortho.data.split_folders import find_test_folder, find_train_folder


def list_images(folder: Path, links: Links) -> list[str]:
    """Paths of all images below a folder, sorted; without hidden files and a system's own."""
    found, other = [], []
    for path in walk_files(folder, links):
        (found if is_image_name(path) else other).append(path)
    if other:
        warnings.warn(
            f"{len(other)} files in {folder} have no image suffix and are left out, {to_line(other[0])} "
            "first",
            stacklevel=2,
        )
    return found


def scan_folder(
    data_dir: Path,
    split: Split,
    test_folders: tuple[str, ...] = ("test", "val"),
    follow_links: bool = False,
) -> ImageFiles | None:
    """Find the images of `train/<class>/*` or `test|val/<class>/*`.

    Args:
        data_dir: folder that holds train/.
        split: "train" or "test".
        test_folders: names of the test folder; the first that exists is taken.
        follow_links: whether symbolic links may lead out of data_dir.

    Returns:
        The files, in sorted order; labels are -1 if there are no class folders. None if there is no
        test folder.

    Raises:
        ValueError: a missing folder, one without images, an empty class, test classes other than the
            training ones, a link that is not followed.
    """
    folder = train = find_train_folder(data_dir)
    links = Links(data_dir, follow_links)
    if split == "test":
        found = find_test_folder(data_dir, test_folders)
        if found is None:
            return None
        folder = found
    links.check_folder(folder)
    classes = list_classes(folder)
    names = classes
    if split == "test" and (training := list_classes(train)):
        check_same_classes(training, classes, train, folder)
        names = training  # whose order the labels follow
    if classes:
        files = list_class_folders(folder, {name: classes[name] for name in names}, links)
        warn_of_loose_images(folder)
        return replace(files, classes=tuple(map(to_line, names.values())))
    return list_unlabelled(folder, links)


def list_class_folders(folder: Path, classes: dict[str, str], links: Links) -> ImageFiles:
    """The images of class folders, labelled by the order of `classes`, a result of `list_classes`.

    Raises ValueError for a class without images.
    """
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes.values()):
        place = folder / name
        links.check_folder(place)
        images = list_images(place, links)
        if not images:
            raise ValueError(
                f"class folder {to_line(str(place))} holds no images; fill or remove it"
            )
        paths += images
        labels += [label] * len(images)
    shown = tuple(to_line(name) for name in classes.values())
    return ImageFiles(tuple(paths), torch.tensor(labels), shown, str(folder))


def list_unlabelled(folder: Path, links: Links) -> ImageFiles:
    """All images below a folder, without labels. Raises ValueError if there are none."""
    paths = list_images(folder, links)
    if not paths:
        raise ValueError(
            f"{folder} holds no images (looked for {', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return ImageFiles(tuple(paths), torch.full((len(paths),), -1), (), str(folder))


def list_classes(folder: Path) -> dict[str, str]:
    """Folders of classes, sorted: the composed name (see `names.compose`) to the name as it is.

    Raises ValueError if two names differ in their Unicode form alone, since people see one class.
    """
    classes: dict[str, str] = {}
    for name in list_folders(folder):
        if (same := classes.setdefault(compose(name), name)) != name:
            raise ValueError(
                f"{folder} holds two folders {to_line(name)!r}, which differ in their Unicode form alone "
                f"({same!a} and {name!a}); move the images of one into the other"
            )
    return classes


def check_same_classes(
    ours: dict[str, str], theirs: dict[str, str], train: Path, test: Path
) -> None:
    """Raise ValueError if the test classes, `theirs`, are others than the training classes, `ours`."""
    different = sorted(set(ours).symmetric_difference(theirs))
    if different:
        raise ValueError(
            f"{test} and {train} do not have the same classes ({to_line(different[0])} is in one alone); "
            "labels would not match"
        )


def warn_of_loose_images(folder: Path) -> None:
    """Warn of images that lie beside class folders, and are left out."""
    loose = list_loose_images(folder)
    if loose:
        warnings.warn(
            f"{len(loose)} images in {folder} lie beside the class folders and are left out, "
            f"{to_line(loose[0])} first",
            stacklevel=2,
        )


def read_into_memory(files: ImageSet) -> ImageArray:
    """Decode images that are all of one size.

    Raises ValueError, naming the file, if one cannot be decoded or is of another size.
    """

    def decode(i: int) -> Tensor:
        return torch.from_numpy(files.open(i)).permute(2, 0, 1)

    first = decode(0)
    images = torch.empty(len(files), *first.shape, dtype=torch.uint8)

    def fill(i: int) -> None:
        image = decode(i)
        if image.shape != first.shape:
            name, other = (files.file_of(k) or files.name_of(k) for k in (i, 0))
            raise ValueError(
                f"{name} is {image.shape[2]} x {image.shape[1]} pixels and {other} {first.shape[2]} x "
                f"{first.shape[1]}; images of different sizes need --loader files"
            )
        images[i] = image

    def attempt(i: int) -> BrokenImageError | None:
        try:
            fill(i)
        except BrokenImageError as error:
            return error
        return None

    with ThreadPoolExecutor() as pool:
        results = map_in_pieces(pool, attempt, range(len(files)))
        broken = [error for error in results if error is not None]
    if broken:
        raise ValueError(describe_broken(broken, len(files)))
    return ImageArray(images, files.labels, files.classes, files.table)


def load_folder(
    data_dir: Path,
    split: Split,
    loader: Literal["auto", "tensor", "files"],
    test_folders: tuple[str, ...] = ("test", "val"),
    follow_links: bool = False,
    skip_broken: bool = False,
    skip_list: Path | None = None,
    upright: bool = False,
) -> ImageSet | None:
    """Images of a folder; read into memory if all are small and of one size.

    Args:
        data_dir, split, test_folders, follow_links: see `scan_folder`, also for what raises.
        loader: "tensor" reads them into memory, "files" leaves them on the disk, whatever their size.
        skip_broken, skip_list: see `handle_broken`, also for what raises.
        upright: turn images as their EXIF data say.

    Returns:
        The images; None if there is no test folder.
    """
    files = scan_folder(data_dir, split, test_folders, follow_links)
    if files is None:
        return None
    files = replace(files, upright=upright)
    return settle_files(files, split, loader, skip_broken, skip_list)


def settle_files(
    files: ImageFiles,
    split: Split,
    loader: Literal["auto", "tensor", "files"],
    skip_broken: bool | None = False,
    skip_list: Path | None = None,
) -> ImageSet:
    """Check image files; read them into memory if all are small and of one size.

    Args: as for `load_folder`, also for what raises.
    """
    data, sizes = handle_broken(files, split, skip_broken, skip_list)
    alike = len(sizes) == len(data) and len(set(sizes)) == 1  # not known of a sample
    if loader == "tensor" or (loader == "auto" and alike and max(sizes[0]) <= SMALL_SIDE):
        return read_into_memory(data)
    return data
