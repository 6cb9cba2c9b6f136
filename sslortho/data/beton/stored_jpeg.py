"""Decoding of a JPEG that a beton stores."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from simplejpeg import decode_jpeg

from sslortho.data.decoding import BrokenImageError, describe_error


class BrokenSampleError(BrokenImageError):
    """An image of a beton that cannot be decoded."""

    fault = "cannot be decoded ({})"
    remedy = "write the file again with sslortho write_beton"

    def __init__(self, path: Path, place: int, reason: str) -> None:
        super().__init__(f"image {place} of {path}", reason)
        self.given = path, place, reason

    def __reduce__(self) -> tuple[type["BrokenSampleError"], tuple[Any, ...]]:
        return type(self), self.given


def decode_stored(
    content: Any, height: int, width: int, memory: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Decode the bytes of a JPEG to pixels, (height, width, 3), writable.

    Where libjpeg warns or fails, PIL decides, as for JPEG files: it reads those with a few bytes too many,
    and refuses those that are cut short.

    Args:
        content: the bytes, in any object that has them in memory.
        height, width: pixels; the JPEG's own header must say the same.
        memory: uint8, at least 3 * height * width; the pixels lie in it. None: in new memory.

    Raises ValueError, saying in a few words what is wrong.
    """
    if memory is None:
        memory = np.empty(3 * height * width, np.uint8)
    try:
        pixels = decode_jpeg(content, "RGB", buffer=memory)
    except ValueError:  # also where the JPEG is larger than the memory
        return _decode_by_pil(content, height, width)
    _check_size((pixels.shape[1], pixels.shape[0]), height, width)
    return pixels


def _decode_by_pil(content: Any, height: int, width: int) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            _check_size(image.size, height, width)  # before memory is taken for it
            return np.array(image.convert("RGB"))
    except (MemoryError, ValueError):
        raise
    except Exception as error:  # PIL raises a dozen kinds for damaged bytes
        raise ValueError(describe_error(error)) from error


def check_stored(content: bytes, height: int, width: int) -> None:
    """Check the bytes of a JPEG, in a third of the time that decoding takes.

    Raises ValueError as `decode_stored`.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            found = image.size
            # reads all entropy-coded data too
            image.draft(image.mode, (1, 1))
            image.load()
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(describe_error(error)) from error
    _check_size(found, height, width)


def _check_size(found: tuple[int, int], height: int, width: int) -> None:
    if found != (width, height):
        raise ValueError(
            f"its JPEG is {found[0]} x {found[1]} pixels, its record says {width} x {height}"
        )
