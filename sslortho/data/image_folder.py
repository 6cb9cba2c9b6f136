"""Folders of image files: found and checked, so that what is wrong is named before training."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sslortho.data.decoding import read_image, read_size
from sslortho.data.folder_walk import Links, list_files, list_folders, walk_files
from sslortho.data.image_sets import SMALL_SIDE, ImageArray, ImageFiles, ImageSet, Split

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif"}

HEADERS_CHECKED = 100_000
"""Files up to which every header is read before training starts; beyond it one of each class."""


def _list_images(folder: Path, links: Links) -> list[str]:
    """Paths of all images below a folder, sorted; hidden files and folders are left out."""
    found, other = [], []
    for path in walk_files(folder, links):
        is_image = os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES
        (found if is_image else other).append(path)
    if other:
        warnings.warn(
            f"{len(other)} files in {folder} have no image suffix and are left out, {other[0]} first",
            stacklevel=2,
        )
    return found


def _train_folder(data_dir: Path) -> Path:
    if not data_dir.is_dir():
        raise ValueError(f"data_dir={str(data_dir)!r} is no folder; give one that holds train/")
    if not (data_dir / "train").is_dir():
        inside = ", ".join(sorted(path.name for path in data_dir.iterdir())[:5]) or "nothing"
        raise ValueError(
            f"data_dir={str(data_dir)!r} has no folder train/ (it holds {inside}); expected "
            "train/<class>/<image>, or train/<image> without labels"
        )
    return data_dir / "train"


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
    folder = train = _train_folder(data_dir)
    links = Links(data_dir, follow_links)
    if split == "test":
        found = [data_dir / name for name in test_folders if (data_dir / name).is_dir()]
        if not found:
            return None
        folder = found[0]
        _check_same_classes(train, folder)
    links.check_folder(folder)
    classes = list_folders(folder)
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        links.check_folder(folder / name)
        images = _list_images(folder / name, links)
        if not images:
            raise ValueError(f"class folder {folder / name} holds no images; fill or remove it")
        paths += images
        labels += [label] * len(images)
    if classes:
        _warn_of_loose_images(folder)
    else:
        paths = _list_images(folder, links)
        labels = [-1] * len(paths)
    if not paths:
        raise ValueError(
            f"{folder} holds no images (looked for {', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return ImageFiles(tuple(paths), torch.tensor(labels), tuple(classes), str(folder))


def _warn_of_loose_images(folder: Path) -> None:
    loose = [n for n in list_files(folder) if os.path.splitext(n)[1].lower() in IMAGE_SUFFIXES]
    if loose:
        warnings.warn(
            f"{len(loose)} images in {folder} lie beside the class folders and are left out, "
            f"{loose[0]} first",
            stacklevel=2,
        )


def _check_same_classes(train: Path, test: Path) -> None:
    ours, theirs = list_folders(train), list_folders(test)
    different = sorted(set(ours).symmetric_difference(theirs))
    if ours and different:
        raise ValueError(
            f"{test} and {train} do not have the same classes ({different[0]} is in one alone); "
            "labels would not match"
        )


def check_headers(files: ImageFiles) -> list[tuple[int, int]]:
    """Read image headers, so that a broken file is known before training.

    Every file of a set of up to HEADERS_CHECKED, the first of each class of a larger one. Returns
    their (width, height) in pixels. Raises ValueError, naming the file, if it is not an image.
    """
    paths = list(files.paths)
    if len(paths) > HEADERS_CHECKED:
        first = np.unique(files.labels.numpy(), return_index=True)[1]
        paths = [files.paths[i] for i in first]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(read_size, paths, chunksize=64))


def read_into_memory(files: ImageFiles) -> ImageArray:
    """Decode files that are all of one size.

    Raises ValueError, naming the file, if one cannot be decoded or is of another size.
    """

    def decode(path: str) -> Tensor:
        return torch.from_numpy(np.asarray(read_image(path)).copy()).permute(2, 0, 1)

    first = decode(files.paths[0])
    images = torch.empty(len(files), *first.shape, dtype=torch.uint8)

    def fill(i: int) -> None:
        image = decode(files.paths[i])
        if image.shape != first.shape:
            raise ValueError(
                f"{files.paths[i]} is {image.shape[2]} x {image.shape[1]} pixels and "
                f"{files.paths[0]} {first.shape[2]} x {first.shape[1]}; images of different sizes "
                "need --loader files"
            )
        images[i] = image

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(fill, range(len(files)), chunksize=256):
            pass
    return ImageArray(images, files.labels, files.classes, files.table)


def load_folder(
    data_dir: Path,
    split: Split,
    loader: Literal["auto", "tensor", "files"],
    test_folders: tuple[str, ...] = ("test", "val"),
    follow_links: bool = False,
) -> ImageSet | None:
    """Images of a folder; read into memory if all are small and of one size.

    Args:
        data_dir, split, test_folders, follow_links: see `scan_folder`, also for what raises.
        loader: "tensor" reads them into memory, "files" leaves them on the disk, whatever their size.

    Returns:
        The images; None if there is no test folder.
    """
    files = scan_folder(data_dir, split, test_folders, follow_links)
    if files is None:
        return None
    if loader == "tensor":
        return read_into_memory(files)
    sizes = set(check_headers(files))
    small = len(sizes) == 1 and max(next(iter(sizes))) <= SMALL_SIDE
    if loader == "auto" and small and len(files) <= HEADERS_CHECKED:
        return read_into_memory(files)
    return files
