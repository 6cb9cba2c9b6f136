"""Image files that end too early, told by their last bytes and by the sizes in their headers."""

import os
from typing import IO

from PIL.ImageFile import ImageFile

TAIL = 4096
"""Bytes at the end that are searched: some programs write a few more behind an image's end."""

JPEG_END = b"\xff\xd9"
"""Marker EOI (ITU T.81, B.1.1.3); in compressed data a zero follows each byte 255."""

TIFF_OFFSETS_AND_LENGTHS = ((273, 279), (324, 325))
"""Tags of where strips, and tiles, begin and how long they are (TIFF 6.0, sections 8 and 15)."""


def seems_cut_short(image: ImageFile) -> bool:
    """Whether the file of an opened image lacks its end. Reads its last bytes at most, decodes nothing.

    True is a suspicion only: a file with much behind its image seems cut short too. A file that is
    damaged in its middle is not found. The position in the file stays as it was.

    Args:
        image: as Image.open returns it, its pixels not loaded yet.
    """
    file = image.fp
    assert file is not None
    position = file.tell()
    try:
        length = file.seek(0, os.SEEK_END)
        return _lacks_end(image, file, length, position)
    finally:
        file.seek(position)


def _lacks_end(image: ImageFile, file: IO[bytes], length: int, position: int) -> bool:
    kind = image.format
    if kind in ("JPEG", "MPO"):  # MPO: several JPEGs in one file
        # from the image data on: a thumbnail in the header has an end marker too
        return JPEG_END not in _read_tail(file, length, position)
    if kind == "PNG":
        return b"IEND" not in _read_tail(file, length)
    if kind == "GIF":
        return not _read_tail(file, length).rstrip(b"\0").endswith(b";")
    if kind == "WEBP":  # RIFF: the length of all that follows stands in bytes 4 to 7
        return length < 8 + _read_number(file, 4)
    if kind == "TIFF":
        return length < _find_tiff_end(image)
    if kind == "BMP":  # its own length stands in bytes 2 to 5
        return length < _read_number(file, 2)
    if kind == "PPM":
        return length < _find_raw_end(image)
    return True


def _read_tail(file: IO[bytes], length: int, start: int = 0) -> bytes:
    """The last TAIL bytes, none of them before `start`."""
    file.seek(max(start, length - TAIL))
    return file.read(TAIL)


def _read_number(file: IO[bytes], place: int) -> int:
    """The unsigned integer of four bytes, the lowest first, at `place`."""
    file.seek(place)
    return int.from_bytes(file.read(4), "little")


def _find_tiff_end(image: ImageFile) -> int:
    """Byte behind the last strip or tile of the first picture."""
    tags = getattr(image, "tag_v2", {})
    for starts, lengths in TIFF_OFFSETS_AND_LENGTHS:
        if starts in tags and lengths in tags:
            places = zip(tags[starts], tags[lengths], strict=False)
            return max((start + length for start, length in places), default=0)
    return 0


def _find_raw_end(image: ImageFile) -> int:
    """Byte behind the pixels, where these are stored as they are; 0 where their length is unknown."""
    tile = image.tile[0]
    if tile[0] == "ppm_plain":  # numbers as text
        return 0
    width, height = image.size
    bits = {"1": 1, "L": 8, "RGB": 24, "RGBA": 32, "F": 32}.get(image.mode, 16)
    return tile[2] + (width * bits + 7) // 8 * height
