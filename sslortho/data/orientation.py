"""Orientation of photographs, as EXIF or XMP data say it."""

import contextlib

from PIL import ExifTags, Image

EXIF_START = b"Exif\0\0"
"""First bytes of EXIF data in a JPEG (CIPA DC-008, 4.7.2)."""

XMP_ORIENTATION = b"tiff:Orientation"
"""Name of the orientation in XMP data, where PIL looks if EXIF data have none."""

PNG_EXIF = {"exif", "Raw profile type exif"}
"""Entries of PIL's `info` that hold the EXIF data of a PNG."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's Orientation to what undoes it (CIPA DC-008, 4.6.5); from 5 on it exchanges width and height."""


def may_lie_turned(data: bytes) -> bool:
    """Whether the bytes of a JPEG may say an orientation; if not, PIL need not look for it."""
    return EXIF_START in data or XMP_ORIENTATION in data


def turn(converted: Image.Image, orientation: int) -> Image.Image:
    """Image, turned as its orientation says."""
    return converted.transpose(TURNS[orientation]) if orientation in TURNS else converted


def lies_turned(image: Image.Image) -> bool:
    """Whether EXIF data say that an image must be turned to be seen as it was taken."""
    return read_orientation(image) in TURNS


def read_orientation(image: Image.Image) -> int:
    """EXIF's Orientation; 1, upright, where there is none, and for a TIFF, which PIL turns itself."""
    late = image.format == "PNG" and not PNG_EXIF & image.info.keys()
    if image.format == "TIFF" or late:  # a PNG would be decoded to look for data behind its pixels
        return 1
    with contextlib.suppress(Exception):  # damaged EXIF data do not spoil the pixels
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) in pixels of an image that is turned."""
    width, height = image.size
    return (height, width) if 5 <= read_orientation(image) <= 8 else (width, height)
