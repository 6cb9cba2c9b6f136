"""Data sets by name."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from sslortho.data.beton.images import BetonImages, load_beton
from sslortho.data.broken_images import handle_broken
from sslortho.data.identity import ImageTable, hash_arrays
from sslortho.data.image_folder import load_folder
from sslortho.data.image_sets import ImageArray, ImageSet, Split
from sslortho.data.options import DATA_SETS
from sslortho.options import nearest


def load_digits(split: Split) -> ImageArray:
    """scikit-learn's 1,797 handwritten digits, enlarged from 8 x 8 to 32 x 32 pixels, as RGB.

    Every fifth is a test image.
    """
    pixels, target = _read_digits()
    images = torch.from_numpy(pixels).float().mul_(255 / 16).unsqueeze(1)
    images = functional.interpolate(images, size=32, mode="bicubic", antialias=True)
    images = images.round_().clamp_(0, 255).to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(target).long()
    test = torch.arange(len(labels)) % 5 == 0
    chosen = (test if split == "test" else ~test).nonzero().squeeze(1)
    classes = tuple("0123456789")
    # the source's hash, since enlarging may round otherwise in another version of torch
    origin = ImageTable(labels.numpy(), classes, content=hash_arrays(pixels))
    return ImageArray(images, labels, classes, origin).select(chosen)


def _read_digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """scikit-learn's digits, (1797, 8, 8) with values from 0 to 16, and their labels, (1797,).

    From its file, where that is found: importing scikit-learn brings all of scipy.stats and pandas along, and
    takes longer than everything else that the digits need.
    """
    spec = importlib.util.find_spec("sklearn")
    folders = (spec and spec.submodule_search_locations) or ()
    for folder in folders:
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            table = np.loadtxt(path, np.uint8, delimiter=",")
            return table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    from sklearn import datasets

    data: Any = datasets.load_digits()
    return data.images.astype(np.uint8), data.target.astype(np.uint8)


def load_cifar(name: str, data_dir: Path, split: Split) -> ImageArray:
    """CIFAR-10 or CIFAR-100 through torchvision, which downloads it if it is not in data_dir.

    Raises ValueError if it is neither there nor can be downloaded.
    """
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


def load_imagenet(
    data_dir: Path,
    split: Split,
    loader: Literal["auto", "tensor", "files"],
    follow_links: bool = False,
    skip_broken: bool = False,
    skip_list: Path | None = None,
    upright: bool = False,
) -> ImageSet | None:
    """ImageNet: betons if there is a train.beton, else image folders `train|val/<wnid>/*`.

    A folder test/ is ignored: ImageNet's has no labels.
    """
    if (data_dir / "train.beton").is_file():
        return check_beton(load_beton(data_dir, split), split, skip_broken, skip_list)
    return load_folder(
        data_dir, split, loader, ("val",), follow_links, skip_broken, skip_list, upright
    )


def check_beton(
    data: BetonImages | None, split: Split, skip_broken: bool | None, skip_list: Path | None
) -> ImageSet | None:
    """Check the images of a beton as those of a folder; see `handle_broken`."""
    if data is None:
        return None
    # a copy, since the checked one keeps the file's metadata, 40 MB for ImageNet
    return replace(handle_broken(data, split, skip_broken, skip_list)[0])


DATASETS = DATA_SETS


def load_split(
    name: str,
    data_dir: str | Path | None,
    split: Split,
    loader: Literal["auto", "tensor", "files"] = "auto",
    follow_links: bool = False,
    skip_broken: bool = False,
    skip_list: Path | None = None,
    upright: bool = False,
) -> ImageSet | None:
    """One split of a data set by name.

    Args:
        name: one of DATASETS.
        data_dir: its folder; all but digits need one.
        split: "train" or "test".
        loader: how a folder is read: "tensor" into memory, "files" file by file, "auto" into memory if
            the images are small and of one size.
        follow_links: whether image files may be links that lead out of data_dir.
        skip_broken, skip_list: see `broken_images.handle_broken`.
        upright: turn the images of a folder as their EXIF data say.

    Returns:
        The images; None if a folder, betons or ImageNet have no test split.

    Raises:
        ValueError: naming the argument or the file that is wrong.
    """
    if name not in DATASETS:
        known = ", ".join(DATASETS)
        raise ValueError(f"data={name!r} is not one of {known}{nearest(name, DATASETS)}")
    if name == "digits":
        return load_digits(split)
    if data_dir is None:
        raise ValueError(f"data={name!r} needs data_dir, its folder")
    path = Path(data_dir).expanduser()
    readers: dict[str, Callable[[], ImageSet | None]] = {
        "cifar10": lambda: load_cifar("cifar10", path, split),
        "cifar100": lambda: load_cifar("cifar100", path, split),
        "folder": lambda: load_folder(
            path, split, loader, ("test", "val"), follow_links, skip_broken, skip_list, upright
        ),
        "beton": lambda: check_beton(load_beton(path, split), split, skip_broken, skip_list),
        "imagenet": lambda: load_imagenet(
            path, split, loader, follow_links, skip_broken, skip_list, upright
        ),
    }
    return readers[name]()
