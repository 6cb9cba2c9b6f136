"""Images of one size in an array or a tensor of the user's, read where they lie."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslortho.data.first_rank import say
from sslortho.data.identity import ENDS_READ, ImageTable, hash_array
from sslortho.data.image_sets import SMALL_SIDE, ImageArray, ImageSet
from sslortho.data.labels import Labelling
from sslortho.data.pixel_values import CHANNELS, PixelRule, describe_rule, find_channels, find_white
from sslortho.data.view_loader import Indices

if TYPE_CHECKING:
    from typing_extensions import Self

HASHED = 1 << 32
"""Bytes of an array up to which each image tells its identity; of a larger one ENDS_READ images do. Hashing
takes about a second a gigabyte."""


@dataclass(frozen=True, eq=False)
class ArrayImages(ImageSet):
    """Images (n, ...) of one array, of which nothing is copied; labels int64 (n,) or -1."""

    values: NDArray[Any]
    places: NDArray[np.int64]
    """(m,): places of the samples in the array."""
    rule: PixelRule
    labels: Tensor
    classes: tuple[str, ...]
    origin: ImageTable
    """Table of the samples."""

    def __len__(self) -> int:
        return len(self.places)

    def select(self, indices: Tensor) -> "Self":
        chosen = indices.numpy()
        return replace(
            self,
            places=self.places[chosen],
            labels=self.labels[indices],
            origin=self.origin.select(chosen),
        )

    def open(self, index: int) -> NDArray[np.uint8]:
        return self.rule.apply(self.values[self.places[index]])

    @property
    def table(self) -> ImageTable:
        return self.origin

    @cached_property
    def _sides(self) -> tuple[int, int]:
        shape = self.values.shape[2:] if self.rule.channels == 0 else self.values.shape[1:3]
        return int(shape[0]), int(shape[1])

    def sizes(self, indices: Indices) -> tuple[Indices, Indices]:
        height, width = (np.full(len(indices), side, np.int64) for side in self._sides)
        return height, width


def take_array(
    values: "NDArray[Any] | Tensor",
    labelling: Labelling,
    loader: Literal["auto", "tensor", "files"] = "auto",
    name: str = "data",
    white: float | None = None,
) -> ArrayImages | ImageArray:
    """Image set of an array: small images as pixels in memory, larger ones where they lie.

    Args:
        values: (n, height, width), (n, height, width, channels) or (n, channels, height, width), of any
            type that `pixel_values` knows. Where both layouts could be meant, channels come last in an
            array of NumPy, first in a tensor.
        labelling: labels of the images.
        loader: "tensor" makes pixels in memory of images of any size, "files" of none.
        name: of the argument, for messages.
        white: value that becomes 255 where the type does not say it. Default: see `pixel_values`.

    Raises ValueError as `find_channels` and `find_white`, and for another number of axes.
    """
    array, channels_first = to_array(values), isinstance(values, Tensor)
    shown = f"{name}, an array of shape {array.shape},"
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise ValueError(
            f"{shown} must be (n, height, width), (n, height, width, channels) or (n, channels, height, "
            "width), and hold images"
        )
    one = array.shape[-1] in CHANNELS or (channels_first and array.shape[0] in CHANNELS)
    if array.ndim == 3 and one:
        raise ValueError(
            f"{shown} seems to be one image; several are needed, (n, height, width, 3) or (n, 3, height, "
            "width), of grey ones (n, 1, height, width)"
        )
    own = find_white(array, shown)
    rule = PixelRule(
        own if own is None or white is None else white,
        find_channels(array.shape[1:], channels_first, shown),
    )
    channels = 1 if rule.channels is None else array.shape[1:][rule.channels]
    if words := describe_rule(rule, array.dtype, channels):
        say(f"{name}: {words}")
    labels, classes = labelling.find(len(array))
    images = ArrayImages(
        values=array,
        places=np.arange(len(array)),
        rule=rule,
        labels=labels,
        classes=classes,
        origin=_identify(array, labels, classes),
    )
    small = max(images.first_size) <= SMALL_SIDE
    return _hold(images) if loader == "tensor" or (loader == "auto" and small) else images


def to_array(values: "NDArray[Any] | Tensor") -> NDArray[Any]:
    """Array over the memory of a tensor, as far as NumPy has its type; an array as it is.

    Raises ValueError for a sparse tensor, and others that NumPy has no form of.
    """
    if not isinstance(values, Tensor):
        return values
    plain = values.detach().cpu()
    try:
        return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"a tensor of {plain.dtype} and {plain.layout} has no form in NumPy ({error}); give a dense one of "
            "uint8 or float32"
        ) from error


def _identify(array: NDArray[Any], labels: Tensor, classes: tuple[str, ...]) -> ImageTable:
    """Table whose names are the places of the images, and whose ends are the hashes of their values."""
    count = len(array) if array.nbytes <= HASHED else min(len(array), ENDS_READ)
    ends = np.zeros(len(array), np.int64)
    for i in map(int, np.linspace(0, len(array) - 1, count)):
        ends[i] = hash_array(array[i])
    names = [str(i) for i in range(len(array))]
    return ImageTable(labels.numpy(), classes, names, ends=ends)


def _hold(images: ArrayImages) -> ImageArray:
    """The same images as pixels in memory."""
    height, width = images.first_size
    pixels = torch.empty(len(images), 3, height, width, dtype=torch.uint8)
    for i in range(len(images)):
        pixels[i] = torch.from_numpy(images.open(i)).permute(2, 0, 1)
    return ImageArray(pixels, images.labels, images.classes, images.table)
