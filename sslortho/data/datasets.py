"""Data sets by name."""

import difflib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from sslortho.data.ffcv.beton import read_beton
from sslortho.data.ffcv.writer import manifest_path
from sslortho.data.ffcv.extra import require_ffcv
from sslortho.data.image_folder import folder
from sslortho.data.image_sets import BetonImages, ImageArray, ImageSet, Split

MOST_CLASSES = 1 << 20
"""Of a beton that does not say: a classifier has an output for each, and ImageNet-22k has 21,841."""


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


def _manifest_classes(path: Path, count: int) -> tuple[str, ...]:
    """Names of the classes; none for betons that FFCV wrote, which have no manifest.

    Raises ValueError for a manifest that cannot be read or is of another file.
    """
    manifest = manifest_path(path)
    if not manifest.is_file():
        return ()
    try:
        content = json.loads(manifest.read_text())
        classes, said = tuple(content["classes"]), content["count"]
        named = isinstance(content["classes"], list) and all(isinstance(c, str) for c in classes)
        if not named:
            raise TypeError("classes are no list of names")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{manifest} is no manifest of a beton ({type(error).__name__}: {error}); remove it, or "
            "write both again with scripts/write_beton.py"
        ) from error
    if said != count:
        raise ValueError(
            f"{manifest} is of a beton of {said} images, {path} has {count}; remove it, or write both "
            "again with scripts/write_beton.py"
        )
    return classes


def _check_labels(path: Path, labels: NDArray[np.int64], classes: tuple[str, ...]) -> None:
    most = len(classes) or MOST_CLASSES
    i = int(labels.argmax())
    if labels[i] >= most:
        raise ValueError(
            f"{path}: image {i} has the label {labels[i]}, and there are at most {most} classes; write "
            "it again with scripts/write_beton.py"
        )


def beton(data_dir: Path, split: Split) -> BetonImages | None:
    """`data_dir/train.beton`, or for testing `val.beton` or `test.beton`, if there is one."""
    names = ("train",) if split == "train" else ("val", "test")
    found = [path for name in names if (path := data_dir / f"{name}.beton").is_file()]
    if not found:
        if split == "test":
            return None
        raise ValueError(
            f"data_dir={str(data_dir)!r} holds no train.beton; write one with "
            f"python scripts/write_beton.py --split train --out {data_dir / 'train.beton'} ..."
        )
    require_ffcv()
    file = read_beton(found[0])
    classes = _manifest_classes(found[0], len(file))
    train = data_dir / "train.beton"
    if split == "test" and train.is_file():
        ours = _manifest_classes(train, len(read_beton(train)))
        if classes and ours and classes != ours:
            different = sorted(set(classes).symmetric_difference(ours))
            raise ValueError(
                f"{found[0]} and {train} do not have the same classes ({', '.join(different[:3])} in "
                "one alone); labels would not match"
            )
    _check_labels(found[0], file.labels, classes)
    return BetonImages(
        path=found[0],
        places=np.arange(len(file)),
        pages=(file.images["data_ptr"] // file.page_size).astype(np.int64),
        labels=torch.from_numpy(file.labels.astype(np.int64)),
        classes=classes,
    )


def imagenet(
    data_dir: Path,
    split: Split,
    loader: Literal["auto", "tensor", "files"],
    follow_links: bool = False,
) -> ImageSet | None:
    """ImageNet: betons where there is a train.beton, else image folders `train|val/<wnid>/*`.

    A folder test/ does not count: that of ImageNet has no labels.
    """
    if (data_dir / "train.beton").is_file():
        return beton(data_dir, split)
    return folder(data_dir, split, loader, ("val",), follow_links)


DATASETS = ("digits", "cifar10", "cifar100", "folder", "beton", "imagenet")


def load_split(
    name: str,
    data_dir: str | Path | None,
    split: Split,
    loader: Literal["auto", "tensor", "files"] = "auto",
    follow_links: bool = False,
) -> ImageSet | None:
    """One split of a data set by name.

    Args:
        name: one of DATASETS.
        data_dir: where it lies; needed by all but digits.
        split: "train" or "test".
        loader: "auto", or "tensor" or "files" to force how a folder is read.
        follow_links: whether image files may be links to outside of data_dir.

    Returns:
        The images; None if a folder, betons or ImageNet have no test split.

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
        "folder": lambda: folder(path, split, loader, follow_links=follow_links),
        "beton": lambda: beton(path, split),
        "imagenet": lambda: imagenet(path, split, loader, follow_links),
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
