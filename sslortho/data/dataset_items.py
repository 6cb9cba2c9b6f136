"""Items of a user's Dataset, read one by one: in them an image is found, and made pixels."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sslortho.data.array_images import to_array
from sslortho.data.decoding import (
    BrokenImageError,
    convert_image,
    decode_pixels,
    describe_error,
    read_pixels,
)
from sslortho.data.pixel_values import PixelRule, find_channels, is_uint16

IMAGE_KEYS = ("image", "img", "images", "pixel_values", "picture", "jpg", "png")
"""Keys of an item that is a mapping, in the order in which an image is looked for."""

LABEL_KEYS = ("label", "labels", "target", "class", "cls", "fine_label")
"""The same for labels."""

SLACK = 1e-3
"""Distance beyond 1 up to which a floating-point value is white: resizing overshoots by rounding."""


class BrokenItemError(BrokenImageError):
    """An item of a Dataset without an image that can be read."""

    fault = "cannot be read ({})"
    remedy = "mend its __getitem__"


@dataclass(frozen=True)
class Items:
    """Items of a map-style data set, and where in an item its image is."""

    dataset: Any
    """Has `__len__`, and `__getitem__` from a place to an item."""
    upright: bool = True
    """Turn images of PIL's, and files, as their EXIF data say."""
    image_key: str | None = None
    """Key of the image in items that are mappings; None: the first of IMAGE_KEYS that there is."""
    label_key: str | None = None
    """Key of the label, likewise."""
    title: str = "the Dataset"
    """Name for messages."""

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, place: int) -> NDArray[np.uint8]:
        """Pixels (height, width, 3) of an item. Raises BrokenItemError, naming its place."""
        name = f"item {place} of {self.title}"
        try:
            return to_pixels(self._find_image(self.dataset[place]), name, self.upright)
        except (MemoryError, BrokenItemError):
            raise
        except BrokenImageError as error:
            raise BrokenItemError(name, error.reason) from error
        except Exception as error:  # the user's own code
            reason = f"{type(error).__name__}: {describe_error(error)}"
            raise BrokenItemError(name, reason) from error

    def read_label(self, place: int) -> Any:
        """Label in an item; None if it has none. Raises ValueError, naming its place, if it cannot be read."""
        try:
            return self._find_label(self.dataset[place])
        except MemoryError:
            raise
        except Exception as error:  # the user's own code
            raise ValueError(
                f"the label of item {place} of {self.title} cannot be read ({type(error).__name__}: "
                f"{describe_error(error)}); mend its __getitem__, or give data=(dataset, labels)"
            ) from error

    def _find_label(self, item: Any) -> Any:
        if isinstance(item, Mapping):
            key = self.label_key or next((key for key in LABEL_KEYS if key in item), None)
            return None if key is None else item[key]
        if isinstance(item, tuple | list) and len(item) > 1 and np.ndim(item[1]) == 0:
            return item[1]
        return None

    def _find_image(self, item: Any) -> Any:
        if isinstance(item, Mapping):
            key = self.image_key or next((key for key in IMAGE_KEYS if key in item), None)
            if key is None or key not in item:
                keys = ", ".join(map(str, item))
                raise ValueError(f"no image among its keys {keys}; name it by image_column")
            return item[key]
        return item[0] if isinstance(item, tuple | list) else item


def to_pixels(image: Any, name: str, upright: bool = True) -> NDArray[np.uint8]:
    """Pixels (height, width, 3) of an image in any of the forms that items have.

    Args:
        image: of PIL's; an array or tensor, (height, width), with channels last (array) or first (tensor)
            where both could be meant; a path; bytes of a file; a mapping with the key "bytes" or "path".
            Values of floating point are from 0 to 1.
        name: of the image, for messages.
        upright: turn images of PIL's, and files, as their EXIF data say.

    Raises ValueError, or BrokenImageError, for anything else.
    """
    if isinstance(image, Image.Image):
        return np.array(convert_image(image, name, upright))
    if isinstance(image, Mapping) and ("bytes" in image or "path" in image):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, bytes | bytearray):
        return decode_pixels(bytes(image), name, upright)
    if isinstance(image, str | os.PathLike):
        return read_pixels(os.fspath(image), upright)
    if isinstance(image, Tensor) or hasattr(image, "__array__"):
        return _take_values(image)
    raise ValueError(f"holds {type(image).__name__}, which is no image of PIL's, array or tensor")


def _take_values(image: Any) -> NDArray[np.uint8]:
    first = isinstance(image, Tensor)
    values = to_array(image) if isinstance(image, Tensor) else np.asarray(image)
    channels = find_channels(values.shape, first, "it")
    return PixelRule(_white_of_item(values), channels).apply(values)


def _white_of_item(values: NDArray[Any]) -> float | None:
    """White by the type alone: an item does not say which values others have."""
    kind = values.dtype.kind
    if values.dtype == np.uint8:
        return None
    if kind not in "buif":
        raise ValueError(f"it holds {values.dtype}, which are no pixels")
    if kind == "b" or is_uint16(values.dtype):
        return 1.0 if kind == "b" else 65535.0
    low, high = float(values.min()), float(values.max())
    white, most = (1.0, 1 + SLACK) if kind == "f" else (255.0, 255.0)
    if not (low >= (-SLACK if kind == "f" else 0) and high <= most):
        raise ValueError(
            f"it holds {values.dtype} from {low:g} to {high:g}, and {white:g} is white: undo a normalisation, "
            "or give uint8"
        )
    return white


def find_labels(dataset: Any) -> tuple[Sequence[Any] | None, tuple[str, ...]]:
    """(labels, names of classes) that a Dataset has as a whole: its targets or labels.

    Those of torch's Subset and ConcatDataset are put together. None if there are none.
    """
    inner = getattr(dataset, "dataset", None)
    indices = getattr(dataset, "indices", None)
    if inner is not None and indices is not None:
        labels, classes = find_labels(inner)
        return (None if labels is None else [labels[int(i)] for i in indices]), classes
    parts = getattr(dataset, "datasets", None)
    if isinstance(parts, list | tuple) and parts:
        found = [find_labels(part) for part in parts]
        if any(labels is None for labels, _ in found):
            return None, ()
        names = {classes for _, classes in found}
        classes = names.pop() if len(names) == 1 else ()
        return [label for labels, _ in found for label in labels or ()], classes
    return _own_labels(dataset)


def _own_labels(dataset: Any) -> tuple[Sequence[Any] | None, tuple[str, ...]]:
    change = getattr(dataset, "target_transform", None)
    for name in ("targets", "labels"):
        labels = getattr(dataset, name, None)
        with contextlib.suppress(TypeError, ValueError):
            if labels is None or len(labels) != len(dataset) or np.ndim(labels) != 1:
                continue
            classes = getattr(dataset, "classes", None)
            known = isinstance(classes, list | tuple) and all(isinstance(c, str) for c in classes)
            if change is not None:
                return [change(label) for label in labels], ()
            return list(labels), tuple(classes) if known and classes else ()
    return None, ()
