"""Two small data sets, and images that nothing can be learned from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sslortho.data.image_sets import Split

Images = tuple[np.ndarray, np.ndarray]
"""Images uint8 (n, height, width, 3) and labels int64 (n,)."""

TRAIN, TEST = 1024, 360
"""Images to train and to test on."""


def load_digits() -> tuple[Images, Images]:
    """Embedded digits: 1,024 to train on and 360 to test on."""
    from sslortho.data import load_split

    parts = []
    both: tuple[tuple[Split, int], ...] = (("train", TRAIN), ("test", TEST))
    for split, count in both:
        images: Any = load_split("digits", None, split)
        pixels = np.stack([images.open(i) for i in range(min(count, len(images)))])
        parts.append((pixels, images.labels[: len(pixels)].numpy()))
    return parts[0], parts[1]


def load_folder(folder: Path) -> tuple[Images, Images]:
    """As many images, in equal parts of each class of train/<class> and test/<class>, by name.

    Raises ValueError if there is no train/ or test/.
    """
    for name in ("train", "test"):
        if not (folder / name).is_dir():
            raise ValueError(
                f"cifar={str(folder)!r} has no folder {name}/ with a folder for each class"
            )
    return _read_split(folder / "train", TRAIN), _read_split(folder / "test", TEST)


def _read_split(folder: Path, count: int) -> Images:
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    files = [sorted(path.iterdir()) for path in classes]
    chosen = [
        (file, label)
        for place in range(-(-count // len(classes)))
        for label, names in enumerate(files)
        for file in names[place : place + 1]
    ][:count]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file, _ in chosen])
    return pixels, np.array([label for _, label in chosen])


def repeat_one(images: Images, seed: int) -> Images:
    """One image, as often as there were images; labels as they were."""
    pixels, labels = images
    return np.repeat(pixels[seed : seed + 1], len(pixels), axis=0), labels


def repeat_few(images: Images, seed: int) -> Images:
    """Eight images in turn, as often as there were images."""
    pixels, labels = images
    return np.resize(pixels[seed : seed + 8], pixels.shape), labels


def nearly_constant(images: Images, seed: int) -> Images:
    """Grey images of one level with a noise of one grey level."""
    pixels, labels = images
    noise = np.random.default_rng(seed).integers(127, 129, pixels.shape, dtype=np.uint8)
    return noise, labels


CHANGES: dict[str, Callable[[Images, int], Images]] = {
    "one image repeated": repeat_one,
    "eight images repeated": repeat_few,
    "nearly constant images": nearly_constant,
}
"""Name of a break to its change of the training images."""
