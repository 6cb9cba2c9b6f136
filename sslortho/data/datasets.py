"""Data sets by name: a stack of small images in memory, or the paths of image files."""

import difflib
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif"}

SMALL_SIDE = 96
"""Folders of images that are all of one size up to this many pixels are read into memory."""

HEADERS_CHECKED = 100_000
"""Up to so many files every header is read before training starts, beyond it one a class."""

Split = Literal["train", "test"]


@dataclass(frozen=True)
class ImageArray:
    """Images of one size in memory: uint8 (n, 3, height, width), labels int64 (n,) or -1."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: Tensor) -> "ImageArray":
        """The data set of these samples alone."""
        return ImageArray(self.images[indices], self.labels[indices], self.classes)


@dataclass(frozen=True)
class ImageFiles:
    """Paths of image files of any size, labels int64 (n,) or -1."""

    paths: tuple[str, ...]
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, indices: Tensor) -> "ImageFiles":
        """The data set of these samples alone."""
        paths = tuple(self.paths[i] for i in indices.tolist())
        return ImageFiles(paths, self.labels[indices], self.classes)


ImageSet = ImageArray | ImageFiles


def read_image(path: str) -> Image.Image:
    """Decode a file to RGB; ValueError with its path if it cannot be."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} cannot be read as an image ({error}); remove or replace it"
        ) from error


def read_size(path: str) -> tuple[int, int]:
    """(width, height) from a file's header; ValueError with its path if there is none."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} cannot be read as an image ({error}); remove or replace it"
        ) from error


def digits(split: Split) -> ImageArray:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 made 32 x 32 RGB; every fifth is for testing."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    images = torch.from_numpy(data.images).float().mul_(255 / 16).unsqueeze(1)
    images = functional.interpolate(images, size=32, mode="bicubic", antialias=True)
    images = images.round_().clamp_(0, 255).to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(data.target).long()
    test = torch.arange(len(labels)) % 5 == 0
    chosen = (test if split == "test" else ~test).nonzero().squeeze(1)
    return ImageArray(images, labels, tuple("0123456789")).select(chosen)


def cifar(name: str, data_dir: Path, split: Split) -> ImageArray:
    """CIFAR-10 or CIFAR-100 through torchvision, which downloads it where it can."""
    import torchvision

    cls = torchvision.datasets.CIFAR10 if name == "cifar10" else torchvision.datasets.CIFAR100
    try:
        data = cls(str(data_dir), train=split == "train", download=True)
    except Exception as error:
        raise ValueError(
            f"data={name!r} is neither in data_dir={str(data_dir)!r} nor can it be downloaded "
            f"({error}); give the folder that holds torchvision's {cls.base_folder}, or "
            "--data folder for image files"
        ) from error
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return ImageArray(images, torch.tensor(data.targets), tuple(data.classes))


def _list_images(folder: Path) -> list[str]:
    """All images below a folder, sorted; hidden files and folders do not count."""
    found, other = [], []
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                is_image = os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
                (found if is_image else other).append(os.path.join(root, name))
    if other:
        warnings.warn(
            f"{len(other)} files in {folder} have no image suffix and are left out, {other[0]} first",
            stacklevel=2,
        )
    return found


def _split_folder(data_dir: Path, split: Split) -> Path | None:
    if not data_dir.is_dir():
        raise ValueError(f"data_dir={str(data_dir)!r} is no folder; give one that holds train/")
    for name in ("train",) if split == "train" else ("test", "val"):
        if (data_dir / name).is_dir():
            return data_dir / name
    if split == "train":
        inside = ", ".join(sorted(path.name for path in data_dir.iterdir())[:5]) or "nothing"
        raise ValueError(
            f"data_dir={str(data_dir)!r} has no folder train/ (it holds {inside}); expected "
            "train/<class>/<image>, or train/<image> without labels"
        )
    return None


def scan_folder(data_dir: Path, split: Split) -> ImageFiles | None:
    """`train/<class>/*` or `test|val/<class>/*`; without class folders the labels are -1.

    None where there is no test or val. Raises ValueError for a missing folder, one without images,
    an empty class, and test classes other than the training ones.
    """
    folder = _split_folder(data_dir, split)
    if folder is None:
        return None
    classes = sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    paths: list[str] = []
    labels: list[int] = []
    if not classes:
        paths = _list_images(folder)
        labels = [-1] * len(paths)
    for label, name in enumerate(classes):
        found = _list_images(folder / name)
        if not found:
            raise ValueError(f"class folder {folder / name} holds no images; fill or remove it")
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise ValueError(
            f"{folder} holds no images (looked for {', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    if split == "test":
        _check_same_classes(data_dir / "train", folder, classes)
    return ImageFiles(tuple(paths), torch.tensor(labels), tuple(classes))


def _check_same_classes(train: Path, test: Path, classes: list[str]) -> None:
    ours = {path.name for path in train.iterdir() if path.is_dir()}
    different = sorted(
        name for name in ours.symmetric_difference(classes) if not name.startswith(".")
    )
    if different:
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
    data_dir: Path, split: Split, loader: Literal["auto", "tensor", "files"]
) -> ImageSet | None:
    """An image folder; small images of one size are read into memory (unless `loader` says)."""
    files = scan_folder(data_dir, split)
    if files is None:
        return None
    if loader == "tensor":
        return read_into_memory(files)
    sizes = set(check_headers(files))
    small = len(sizes) == 1 and max(next(iter(sizes))) <= SMALL_SIDE
    if loader == "auto" and small and len(files) <= HEADERS_CHECKED:
        return read_into_memory(files)
    return files


DATASETS = ("digits", "cifar10", "cifar100", "folder")


def load_split(
    name: str,
    data_dir: str | Path | None,
    split: Split,
    loader: Literal["auto", "tensor", "files"] = "auto",
) -> ImageSet | None:
    """One split of a data set by name.

    Args:
        name: one of DATASETS.
        data_dir: where it lies; needed by all but digits.
        split: "train" or "test".
        loader: "auto", or "tensor" or "files" to force how a folder is read.

    Returns:
        The images; None if a folder has no test split.

    Raises:
        ValueError: naming the argument or the file that is at fault.
    """
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"data={name!r} is not one of {', '.join(DATASETS)}{hint}")
    if name == "digits":
        return digits(split)
    if data_dir is None:
        raise ValueError(f"data={name!r} needs data_dir, the folder that it lies in")
    path = Path(data_dir).expanduser()
    readers: dict[str, Callable[[], ImageSet | None]] = {
        "cifar10": lambda: cifar("cifar10", path, split),
        "cifar100": lambda: cifar("cifar100", path, split),
        "folder": lambda: folder(path, split, loader),
    }
    return readers[name]()


def balanced_subset(data: ImageSet, size: int, seed: int) -> ImageSet:
    """`size` samples, the same number (give or take one) of each class, chosen by `seed`.

    Raises ValueError if the data, or a class, has too few.
    """
    if not 1 <= size <= len(data):
        raise ValueError(f"subset={size} must be from 1 to the {len(data)} images of the data")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(data)))
    labels = data.labels[order]
    groups = [order[labels == label] for label in labels.unique(sorted=True)]
    chosen = []
    for i, group in enumerate(groups):
        count = size // len(groups) + (i < size % len(groups))
        if count > len(group):
            raise ValueError(
                f"subset={size} wants {count} images of each class, and one has {len(group)}"
            )
        chosen.append(group[:count])
    return data.select(torch.cat(chosen).sort().values)
