"""Image files checked, and decoded to RGB by PIL and simplejpeg."""

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from simplejpeg import decode_jpeg, decode_jpeg_header

from sslortho.data.file_ends import seems_cut_short
from sslortho.data.names import to_line
from sslortho.data.orientation import may_lie_turned, read_orientation, turn, upright_size

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""Formats that are read, whatever a file's suffix. PIL has 40 more, and starts Ghostscript for EPS."""

JPEG_START = b"\xff\xd8\xff"

TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_SAMPLE_FORMAT = 258, 262, 339
"""Tags BitsPerSample, PhotometricInterpretation and SampleFormat (TIFF 6.0, sections 8 and 19)."""

WHITE_IS_ZERO = 0
"""Value of PhotometricInterpretation."""

SIGNED = (2,)
"""Value of SampleFormat for signed integers of one channel."""

TIFF_STARTS = (b"II*\0", b"MM\0*")
"""First bytes of a TIFF, of either byte order."""

File = str | IO[bytes]
"""A file, by its path or opened."""


class BrokenImageError(ValueError):
    """An image file that cannot be read, or does not decode to its end.

    Args:
        path: of the file.
        reason: fault of the file, in a few words.
    """

    fault = "cannot be read as an image ({})"
    remedy = "remove or replace it"

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(
            f"{to_line(path)} {self.fault.format(reason)}; {self.remedy}, or leave it out with "
            "--skip_broken"
        )

    def __reduce__(self) -> tuple[type["BrokenImageError"], tuple[Any, ...]]:
        return type(self), (self.path, self.reason)  # on its way from another process


class UnknownRangeError(BrokenImageError):
    """An image file whose pixels cannot be scaled to 8 bits: nothing says which value is white."""

    fault = "holds {}"
    remedy = "convert it to 8 or 16 bits"


@contextlib.contextmanager
def naming_broken(path: str) -> Iterator[None]:
    """Raise BrokenImageError for whatever goes wrong inside, except for a lack of memory."""
    try:
        yield
    except (MemoryError, BrokenImageError):
        raise
    except Exception as error:  # PIL raises a dozen kinds for a damaged file
        raise BrokenImageError(path, _describe(path, error)) from error


def _describe(path: str, error: Exception) -> str:
    """Reason why a file cannot be read."""
    with contextlib.suppress(OSError), Path(path).open("rb") as file:
        start = file.read(4)
        if not start:
            return "the file is empty"
        if start in TIFF_STARTS and isinstance(error, UnidentifiedImageError):
            return "a TIFF that is cut short, or of a kind that PIL does not read: convert it to 8 bits"
    return describe_error(error)


def describe_error(error: Exception) -> str:
    """Reason of an error of PIL's, without the file or the Python object that it names at its end."""
    reason = re.sub(r" (<_io\.\w+[^>]*>|'[^']*'|\"[^\"]*\")$", "", str(error))
    return reason or type(error).__name__


@contextlib.contextmanager
def _opened(file: File, name: str) -> Iterator[ImageFile]:
    with naming_broken(name), Image.open(file, formats=FORMATS) as image:
        yield image


def read_image(path: str, upright: bool = False) -> Image.Image:
    """Decode a file to RGB; see `convert_image`.

    The content decides the format (one of FORMATS), not the suffix. Only the first image of an animation
    is read. PIL's limit on pixels holds: it warns beyond Image.MAX_IMAGE_PIXELS and refuses beyond twice
    as many.

    Args:
        path: of the file.
        upright: turn the image as its EXIF data say; otherwise as torchvision's ImageFolder reads it.

    Raises BrokenImageError, naming the file, if it cannot be decoded, and as `convert_image`.
    """
    return _read(path, path, upright)


def decode_image(data: bytes, name: str, upright: bool = False) -> Image.Image:
    """`read_image` of the bytes of a file; `name` is of the image, for messages."""
    return _read(io.BytesIO(data), name, upright)


def _read(file: File, name: str, upright: bool) -> Image.Image:
    with _opened(file, name) as image:
        return convert_image(image, name, upright)


def convert_image(image: Image.Image, name: str, upright: bool = False) -> Image.Image:
    """Convert an image of PIL's to RGB.

    Alpha is dropped. Grey values of 16 bits are scaled so that 65,535 becomes 255; in a TIFF of 12 bits
    4,095 becomes 255, and one whose white is zero is inverted.

    Args:
        image: of any mode.
        name: of the image, for messages.
        upright: turn it as its EXIF data say.

    Raises UnknownRangeError for pixels of unknown range: floating point, and integers that do not fit in
    16 bits.
    """
    orientation = (
        read_orientation(image) if upright else 1
    )  # before pixels are loaded, as for sizes
    return turn(_convert_mode(image, name), orientation)


def _convert_mode(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise UnknownRangeError(name, "floating-point pixels of unknown range")
    if image.mode == "L" and _read_tag(image, TIFF_SAMPLE_FORMAT) == SIGNED:
        _refuse_negative(image, name)
    if image.mode.startswith("I"):  # PIL's own conversion would cut off at 255
        return Image.fromarray(_scale_integers(image, name)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _read_tag(image: Image.Image, tag: int) -> Any:
    """Value of a tag of a TIFF; None for other files."""
    return getattr(image, "tag_v2", {}).get(tag)


def _refuse_negative(image: Image.Image, path: str) -> None:
    """Raise UnknownRangeError for signed bytes below 0, which PIL takes for bright values."""
    low = int(np.asarray(image).view(np.int8).min())
    if low < 0:
        raise UnknownRangeError(path, f"signed integers from {low} on, of unknown range")


def _scale_integers(image: Image.Image, path: str) -> NDArray[np.uint8]:
    """Grey values of more than 8 bits, (height, width), scaled to 0 to 255.

    PIL opens some files of 16 bits in its mode of 32 bits, so there the values decide.

    Raises UnknownRangeError for values below 0 or beyond 16 bits.
    """
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise UnknownRangeError(path, f"integers from {low} to {high}, which do not fit in 16 bits")
    most = 4095 if _read_tag(image, TIFF_BITS) == (12,) else 65535
    scaled = (values.astype(np.float32) / (most / 255)).round().clip(0, 255).astype(np.uint8)
    return 255 - scaled if _read_tag(image, TIFF_PHOTOMETRIC) == WHITE_IS_ZERO else scaled


def _holds_plain_jpeg(data: bytes) -> bool:
    """Whether simplejpeg decodes it as PIL would, and it is not too large for PIL."""
    if not data.startswith(JPEG_START):
        return False
    height, width, colours, _ = decode_jpeg_header(data)
    most = Image.MAX_IMAGE_PIXELS  # beyond it PIL warns, beyond twice it refuses
    return colours in ("YCbCr", "RGB", "Gray") and (
        most is None or int(height) * int(width) <= most
    )


def read_pixels(path: str, upright: bool = False) -> NDArray[np.uint8]:
    """Decode a file to (height, width, 3).

    The pixels are those of `read_image`; JPEGs take a third less time. Raises as `read_image`.
    """
    try:
        data = Path(path).read_bytes()
    except OSError:
        return np.array(read_image(path, upright))  # which says what is wrong
    return decode_pixels(data, path, upright)


def decode_pixels(data: bytes, name: str, upright: bool = False) -> NDArray[np.uint8]:
    """Decode the bytes of a file to (height, width, 3).

    Args:
        data: content of the file.
        name: of the image, for messages.
        upright: see `read_image`, also for what raises.
    """
    # PIL decides on all others: it reads some such files, and says what is wrong with the others
    with contextlib.suppress(OSError, ValueError):
        if _holds_plain_jpeg(data):
            pixels = decode_jpeg(data, "RGB")
            turned = upright and may_lie_turned(data)
            return _turn_pixels(pixels, data) if turned else pixels
    return np.array(decode_image(data, name, upright))


def _turn_pixels(pixels: NDArray[np.uint8], data: bytes) -> NDArray[np.uint8]:
    """Pixels (height, width, 3) of a JPEG as its EXIF data say."""
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        orientation = read_orientation(image)
    if orientation == 1:
        return pixels
    return np.array(turn(Image.fromarray(pixels), orientation))


def read_size(path: str, upright: bool = False) -> tuple[int, int]:
    """(width, height) in pixels, from a file's header. Raises BrokenImageError as `read_image`."""
    return size_of(path, path, upright)


def size_of(file: File, name: str, upright: bool = False) -> tuple[int, int]:
    """(width, height) in pixels, from the header of a file.

    Raises BrokenImageError as `read_image`.
    """
    with _opened(file, name) as image:
        return upright_size(image) if upright else image.size


def check_image(path: str, upright: bool = False) -> tuple[int, int]:
    """Check a file by its header and its end; (width, height) in pixels.

    A file that seems cut short, or whose kind of pixels may be refused, is decoded to be sure.

    Raises BrokenImageError, naming the file.
    """
    return check_content(path, path, upright)


def check_content(file: File, name: str, upright: bool = False) -> tuple[int, int]:
    """`check_image` on a file of this name."""
    with _opened(file, name) as image:
        size = upright_size(image) if upright else image.size
        signed = _read_tag(image, TIFF_SAMPLE_FORMAT) == SIGNED
        doubtful = image.mode in ("F", "I") or signed or seems_cut_short(image)
    if doubtful:
        _read(file, name, upright)
    return size
