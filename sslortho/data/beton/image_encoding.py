"""Encoding of one image, from a file or from memory, to the bytes that a .beton stores."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from sslortho.data.beton.file_format import JPG, RAW
from sslortho.data.decoding import FORMATS, decode_image, naming_broken
from sslortho.data.orientation import lies_turned

QUALITY = 90
"""Default quality of JPEGs that are encoded here; that of FFCV's RGBImageField."""

SMART_THRESHOLD = 4.0
"""Raw bytes per JPEG byte up to which smart mode stores pixels, at most 4 times the disk."""

MAX_SIDE = np.iinfo(np.uint16).max
"""Pixels; the format has 16 bits for each side."""

MAX_JPEG_SIDE = 65_500
"""Pixels; libjpeg's JPEG_MAX_DIMENSION (jmorecfg.h)."""

DECODABLE_FRAMES = (0xC0, 0xC1, 0xC2)
"""Start-of-frame markers that every libjpeg decodes: baseline, extended, progressive (ITU T.81)."""

KNOWN_SAMPLING = {(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (1, 4)}
"""Luma samples for each chroma sample (horizontally, vertically) that TurboJPEG has a name for."""

Mode = Literal["raw", "jpg", "smart"]


@dataclass(frozen=True)
class ImageEncoding:
    """Form in which images are stored.

    Args:
        mode: raw for pixels; jpg for JPEG bytes; smart for pixels if these take at most
            smart_threshold times the JPEG's bytes, else JPEG bytes.
        max_resolution: pixels; a longer side beyond this is reduced to it.
        quality: of JPEGs, 1 to 100. None: a JPEG that needs no resizing keeps its own bytes, other
            images are encoded with 90.
        smart_threshold: see mode; None for 4.

    Raises:
        ValueError: a value out of range, or one that has no effect on the mode.
    """

    mode: Mode = "jpg"
    max_resolution: int | None = None
    quality: int | None = None
    smart_threshold: float | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("raw", "jpg", "smart"):
            raise ValueError(f"mode={self.mode!r} is not one of raw, jpg, smart")
        if self.max_resolution is not None and self.max_resolution < 1:
            raise ValueError(f"max_resolution={self.max_resolution} must be 1 or more")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"quality={self.quality} must be from 1 to 100")
        if self.quality is not None and self.mode == "raw":
            raise ValueError(f"quality={self.quality} has no effect on mode='raw'")
        if self.smart_threshold is not None and not self.smart_threshold > 0:
            raise ValueError(f"smart_threshold={self.smart_threshold} must be above 0")
        if self.smart_threshold is not None and self.mode != "smart":
            raise ValueError(
                f"smart_threshold={self.smart_threshold} has no effect on mode={self.mode!r}"
            )

    def prefers_pixels(self, width: int, height: int, jpeg_bytes: int) -> bool:
        """Whether an image is stored as pixels, given the bytes of its JPEG."""
        threshold = SMART_THRESHOLD if self.smart_threshold is None else self.smart_threshold
        return self.mode == "smart" and 3 * width * height <= threshold * jpeg_bytes

    def keeps_jpegs(self, size: tuple[int, int]) -> bool:
        """Whether a JPEG of this (width, height) keeps its own bytes, or becomes its exact pixels."""
        fits = self.max_resolution is None or max(size) <= self.max_resolution
        return fits and self.quality is None and self.mode != "raw"


@dataclass(frozen=True)
class EncodedImage:
    """An image as a beton stores it.

    Attributes:
        mode: RAW or JPG.
        width, height: pixels.
        content: the stored bytes.
        kept: the bytes are the source file's own.
        digest: SHA-256 of the source file's bytes, or of the pixels (height, width, 3) in memory.
    """

    mode: int
    width: int
    height: int
    content: bytes
    kept: bool
    digest: bytes


def encode_file(path: str, encoding: ImageEncoding, upright: bool = False) -> EncodedImage:
    """Read, check and encode an image file; see `encode_content`, also for what raises."""
    with naming_broken(path):
        source = Path(path).read_bytes()
    return encode_content(source, path, encoding, upright)


def encode_content(
    source: bytes, name: str, encoding: ImageEncoding, upright: bool = False
) -> EncodedImage:
    """Check and encode the bytes of an image file.

    Args:
        source: content of the file.
        name: of the image, for messages.
        encoding: how it is stored.
        upright: turn it as its EXIF data say; a JPEG that lies turned does not keep its bytes.

    Raises BrokenImageError if it cannot be decoded, ValueError if it is too large; both name it.
    """
    with naming_broken(name):
        image = Image.open(io.BytesIO(source), formats=FORMATS)
        width, height = image.size
        digest = hashlib.sha256(source).digest()
        turned = upright and lies_turned(image)
        may_keep = not turned and encoding.keeps_jpegs(image.size) and is_plain_jpeg(image, source)
        if may_keep and not encoding.prefers_pixels(width, height, len(source)):
            # decoded to find out whether it is whole; at 1/8 of its size all entropy-coded data is
            # read too, in a third of the time
            image.draft(image.mode, (1, 1))
            image.load()
            return EncodedImage(JPG, width, height, source, True, digest)
        if isinstance(image, JpegImageFile) and image.mode in ("L", "RGB") and not turned:
            image = image.convert("RGB")  # what decode_image does, without decoding again
        else:
            image = decode_image(source, name, upright)
    return _encode(image, ImageEncoding("raw") if may_keep else encoding, name, digest)


def encode_pixels(pixels: NDArray[np.uint8], name: str, encoding: ImageEncoding) -> EncodedImage:
    """Encode an image in memory, uint8 (height, width, 3).

    Raises ValueError if it is too large; the message calls it `name`.
    """
    pixels = np.ascontiguousarray(pixels)
    digest = hashlib.sha256(pixels.data).digest()
    return _encode(Image.fromarray(pixels), encoding, name, digest)


def is_plain_jpeg(image: Image.Image, content: bytes) -> bool:
    """Whether every libjpeg decodes this to RGB: one or three components, Huffman, usual sampling.

    CMYK, arithmetic, lossless and other rare kinds are not plain. PIL opens only those of 8 bits.
    """
    if not isinstance(image, JpegImageFile) or image.layers not in (1, 3):
        return False
    luma, *chroma = [layer[1:3] for layer in image.layer]
    usual = not chroma or (luma in KNOWN_SAMPLING and chroma == [(1, 1), (1, 1)])
    return usual and _frame_marker(content) in DECODABLE_FRAMES


def _frame_marker(content: bytes) -> int:
    """Second byte of a JPEG's first start-of-frame marker; 0 if there is none."""
    position = 2
    while position + 4 <= len(content):
        marker = content[position + 1]
        if content[position] != 0xFF or marker == 0xFF:  # libjpeg skips bytes between markers
            position += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # tables and extensions
            return marker
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9:  # these have no length
            position += 2
        else:
            position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return 0


def _encode(image: Image.Image, encoding: ImageEncoding, name: str, digest: bytes) -> EncodedImage:
    if encoding.max_resolution is not None and max(image.size) > encoding.max_resolution:
        scale = encoding.max_resolution / max(image.size)
        width, height = (max(1, round(scale * side)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    width, height = image.size
    limit = MAX_SIDE if encoding.mode == "raw" else MAX_JPEG_SIDE
    if max(image.size) > limit:
        raise ValueError(
            f"{name} is {width} x {height} pixels, and mode={encoding.mode!r} stores at most {limit} "
            f"a side; give a max_resolution up to {limit}, or remove it"
        )
    if encoding.mode != "raw":
        jpeg = _to_jpeg(image, encoding.quality or QUALITY)
        if not encoding.prefers_pixels(width, height, len(jpeg)):
            return EncodedImage(JPG, width, height, jpeg, False, digest)
    return EncodedImage(RAW, width, height, image.tobytes(), False, digest)


def _to_jpeg(image: Image.Image, quality: int) -> bytes:
    image.info = {}  # PIL would write the source's comments into every JPEG
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()
