"""Folders of a user's own images, as they are: flat, albums in albums, or train/ and test/."""

from dataclasses import replace
from pathlib import Path

from sslortho.data.first_rank import say
from sslortho.data.folder_walk import Links, list_folders, list_loose_images
from sslortho.data.image_files import ImageFiles
from sslortho.data.image_folder import (
    check_same_classes,
    list_class_folders,
    list_classes,
    list_unlabelled,
    warn_of_loose_images,
)
from sslortho.data.image_sets import Split
from sslortho.data.names import to_line
from sslortho.data.options import Labels
from sslortho.data.split_folders import find_split_folders, find_test_folder


def scan_own_folder(
    folder: Path,
    split: Split,
    labels: Labels = "auto",
    follow_links: bool = False,
    upright: bool = True,
) -> ImageFiles | None:
    """Find the images of a folder: those in train/, or in test/ or val/, if it has train/; else all.

    A train/ may be one album among others: see `find_split_folders`.

    Args:
        folder: of the user.
        split: "train" or "test".
        labels: "folders": the folders in it, or in train/, are the classes; "none": the images have no
            labels; "auto": those in train/ are, if no images lie beside them; others are not.
        follow_links: whether symbolic links may lead out of the folder.
        upright: turn images as their EXIF data say.

    Returns:
        The files, in sorted order; None for "test" if there are no test images.

    Raises:
        ValueError: a folder without images, a folder whose name looks like train/ or test/ and is neither,
            images beside folders that are classes, and as `scan_folder`.
    """
    links = Links(folder, follow_links)
    has_split = find_split_folders(folder, labels != "auto", split == "train")
    if split == "test" and not has_split:
        return None
    train = folder / "train" if has_split else folder
    links.check_folder(train)
    classes = _choose_classes(train, labels, has_split, split == "train")
    place = train if split == "train" else find_test_folder(folder, ("test", "val"))
    if place is None:
        return None
    links.check_folder(place)
    return replace(_list(place, train, classes, links), upright=upright)


def _list(place: Path, train: Path, classes: dict[str, str], links: Links) -> ImageFiles:
    if not classes:
        return list_unlabelled(place, links)
    if place == train:
        return list_class_folders(place, classes, links)
    found = list_classes(place)
    check_same_classes(classes, found, train, place)
    warn_of_loose_images(place)
    files = list_class_folders(place, {name: found[name] for name in classes}, links)
    return replace(files, classes=tuple(map(to_line, classes.values())))


def _choose_classes(train: Path, labels: Labels, has_split: bool, speaks: bool) -> dict[str, str]:
    """Folders that are classes, a result of `list_classes`; none if the images have no labels."""
    if labels == "none":
        return {}
    if labels == "auto" and not has_split:
        if speaks and (names := list_folders(train)):
            say(
                f"{train}: the images of its {len(names)} folders ({to_line(names[0])}, ...) have no "
                "labels; --labels folders takes the folders for classes"
            )
        return {}
    classes = list_classes(train)
    if labels == "folders" and not classes:
        raise ValueError(f"labels='folders': {train} holds no folders that could be classes")
    loose = list_loose_images(train)
    if not (classes and loose):
        return classes
    beside = f"{len(loose)} images in {train} lie beside its folders, {to_line(loose[0])} first"
    if labels == "folders":
        raise ValueError(
            f"labels='folders': {beside}; move them into folders, or give --labels none"
        )
    if speaks:
        say(f"{beside}: so the folders are no classes, and all images are taken without labels")
    return {}
