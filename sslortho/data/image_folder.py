"""Folders of image files: found, checked, decoded; what is wrong is named before training."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from simplejpeg import decode_jpeg, decode_jpeg_header
from torch import Tensor

from sslortho.data.folder_walk import Links, list_files, list_folders, walk_files
from sslortho.data.image_sets import ImageArray, ImageFiles, ImageSet, Split

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif"}

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""What is read, whatever a file's name: PIL has 40 more, and for EPS it starts Ghostscript."""

SMALL_SIDE = 96
"""Folders of images that are all of one size up to this many pixels are read into memory."""

HEADERS_CHECKED = 100_000
"""Up to so many files every header is read before training starts, beyond it one a class."""


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except MemoryError:
        raise
    except Exception as error:  # PIL raises a dozen kinds for a damaged file
        raise ValueError(
            f"{path} cannot be read as an image ({error}); remove or replace it"
        ) from error


def read_image(path: str) -> Image.Image:
    """Decode a file to RGB; ValueError with its path if it cannot be.

    What it holds counts, not its suffix: one of FORMATS. Alpha is dropped, 16 bits are scaled to 8, of
    an animation the first image counts. A rotation in
    EXIF is not applied, as torchvision's ImageFolder does not. PIL's limit on pixels holds: it warns of
    more than Image.MAX_IMAGE_PIXELS and refuses more than twice as many.
    """
    with _opened(path) as image:
        if image.mode.startswith("I"):  # PIL's own conversion would cut off at 255
            scaled = (np.asarray(image).astype(np.float32) / 257).round().clip(0, 255)
            return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
        if image.mode == "F":
            raise ValueError(f"{path} holds floating-point pixels of unknown range; convert it")
        if image.mode == "P" and "transparency" in image.info:
            return image.convert("RGBA").convert("RGB")
        return image.convert("RGB")


JPEG_START = b"\xff\xd8\xff"


def _holds_plain_jpeg(data: bytes) -> bool:
    """Whether simplejpeg decodes it as PIL would, and it is not too large for PIL."""
    if not data.startswith(JPEG_START):
        return False
    height, width, colours, _ = decode_jpeg_header(data)
    most = Image.MAX_IMAGE_PIXELS  # beyond it PIL warns, beyond twice it refuses
    return colours in ("YCbCr", "RGB", "Gray") and (
        most is None or int(height) * int(width) <= most
    )


def read_pixels(path: str) -> NDArray[np.uint8]:
    """`read_image` as (height, width, 3); of JPEGs a third faster, and equal to PIL."""
    try:
        data = Path(path).read_bytes()
        if _holds_plain_jpeg(data):
            return decode_jpeg(data, "RGB")
    except (OSError, ValueError):
        pass  # PIL's word counts: it reads some such files, and says what is wrong with others
    return np.array(read_image(path))


def read_size(path: str) -> tuple[int, int]:
    """(width, height) from a file's header; ValueError with its path if there is none."""
    with _opened(path) as image:
        return image.size


def _list_images(folder: Path, links: Links) -> list[str]:
    """All images below a folder, sorted; hidden files and folders do not count."""
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
    """`train/<class>/*` or `test|val/<class>/*`; without class folders the labels are -1.

    Of test_folders the first that is there counts. Symbolic links that lead out of data_dir are
    followed only if follow_links says so.

    None where there is no test or val. Raises ValueError for a missing folder, one without images,
    an empty class, test classes other than the training ones, and links that are not followed.
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
    return ImageFiles(tuple(paths), torch.tensor(labels), tuple(classes))


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
    """Read image headers so that a broken file is known before training; returns their sizes.

    Every file of a small set, the first of each class of a large one.
    """
    paths = list(files.paths)
    if len(paths) > HEADERS_CHECKED:
        first = np.unique(files.labels.numpy(), return_index=True)[1]
        paths = [files.paths[i] for i in first]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(read_size, paths, chunksize=64))


def read_into_memory(files: ImageFiles) -> ImageArray:
    """Decode files that are all of one size."""

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
    return ImageArray(images, files.labels, files.classes)


def folder(
    data_dir: Path,
    split: Split,
    loader: Literal["auto", "tensor", "files"],
    test_folders: tuple[str, ...] = ("test", "val"),
    follow_links: bool = False,
) -> ImageSet | None:
    """An image folder; small images of one size are read into memory (unless `loader` says)."""
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
