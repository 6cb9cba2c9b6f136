"""Image files decoded to RGB by PIL and simplejpeg."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from simplejpeg import decode_jpeg, decode_jpeg_header

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""Formats that are read, whatever a file's suffix. PIL has 40 more, and starts Ghostscript for EPS."""

JPEG_START = b"\xff\xd8\xff"


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
    """Decode a file to RGB.

    The content decides the format (one of FORMATS), not the suffix. Alpha is dropped, 16 bits are
    scaled to 8, and only the first image of an animation is read. A rotation in EXIF is not applied,
    as in torchvision's ImageFolder. PIL's limit on pixels holds: it warns beyond
    Image.MAX_IMAGE_PIXELS and refuses beyond twice as many.

    Raises ValueError, naming the file, if it cannot be decoded.
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
    """Decode a file to (height, width, 3).

    The pixels are those of `read_image`; JPEGs take a third less time. Raises as `read_image`.
    """
    try:
        data = Path(path).read_bytes()
        if _holds_plain_jpeg(data):
            return decode_jpeg(data, "RGB")
    except (OSError, ValueError):
        pass  # PIL decides: it reads some such files, and says what is wrong with the others
    return np.array(read_image(path))


def read_size(path: str) -> tuple[int, int]:
    """(width, height) in pixels, from a file's header. Raises ValueError as `read_image`."""
    with _opened(path) as image:
        return image.size
