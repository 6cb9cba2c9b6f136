"""The .beton format (FFCV's, version 2): its layout as numpy types, and a reader that checks all of it.

    header | field descriptors | metadata, a record for each sample | pages of bytes | allocation table

A record holds numbers themselves, and for longer values a pointer to their first byte. Only the
allocation table says how many bytes follow. No sample's bytes cross a page, so a reader may fetch whole
pages.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

VERSION = 2
"""Version of the format, the only one that FFCV's releases read (ffcv/types.py)."""

MIN_PAGE_SIZE, MAX_PAGE_SIZE = 1 << 21, 1 << 31
"""Bytes, powers of two: 2 MiB (a huge page), and the largest that fits the header's 32 bits
(ffcv/writer.py)."""

JPG, RAW = 0, 1
"""Modes of an image: JPEG bytes, and pixels (height, width, 3)."""

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),  # 0 until the file is finished
    ],
    align=True,
)
FIELD = np.dtype(
    [("type_id", "<u1"), ("name", "<u1", (16,)), ("arguments", "<u1", (1024,))], align=True
)
IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
BYTES = np.dtype([("ptr", "<u8"), ("size", "<u8")])
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])

INT_FIELD, IMAGE_FIELD, CUSTOM_FIELD = 1, 2, 255
FIELD_TYPES: dict[int, tuple[str, np.dtype]] = {
    0: ("FloatField", np.dtype("<f8")),
    INT_FIELD: ("IntField", np.dtype("<i8")),
    IMAGE_FIELD: ("RGBImageField", IMAGE),
    3: ("BytesField", BYTES),
    4: ("NDArrayField", np.dtype("<u8")),
    5: ("JSONField", BYTES),
    6: ("TorchTensorField", np.dtype("<u8")),
}
"""Name of each of FFCV's fields and its part of a record, by the id in the field's descriptor."""


def record_type(type_ids: Sequence[int]) -> np.dtype:
    """Type of a sample's record: members f0, f1, ... for its fields, aligned like a C struct."""
    return np.dtype([("", FIELD_TYPES[i][1]) for i in type_ids], align=True)


@dataclass(frozen=True)
class BetonFile:
    """Checked metadata of a .beton.

    Attributes:
        path: the file.
        page_size: bytes, a power of two.
        images: IMAGE records (n,).
        sizes: uint64 (n,), bytes of each image from its data_ptr on; all within the file and one page.
        labels: int64 (n,).
        image_field, label_field: names of the fields that these are of.
    """

    path: Path
    page_size: int
    images: NDArray[np.void]
    sizes: NDArray[np.uint64]
    labels: NDArray[np.int64]
    image_field: str = "image"
    label_field: str = "label"

    def __len__(self) -> int:
        return len(self.images)


def read_beton(path: Path) -> BetonFile:
    """Read and check everything in a .beton except the images' bytes.

    The file may be `write_beton`'s, or written by FFCV's own DatasetWriter, with more fields in any
    order. The images are those of the field "image", the labels those of "label"; where there is no
    field of that name, of the only RGBImageField and the only IntField, whatever their names. JPEGs are
    not decoded, but their stated size is limited as PIL limits it in files: a warning beyond
    Image.MAX_IMAGE_PIXELS, an error beyond twice as many.
    Raw pixels need no limit: the file itself is as large.

    Raises:
        ValueError: naming the file, if reading an image could fail or go beyond the file: it is missing,
            not a beton, of another version, unfinished, cut short, damaged, empty, or lacks a field or has
            several that could be meant;
            or a JPEG in it is too large.
    """
    path = Path(path)
    if not path.is_file():
        wrong = "is no file" if path.exists() else "does not exist"
        raise ValueError(f"{path} {wrong}; write it with sslortho write_beton")
    try:
        with path.open("rb") as file:
            return _read(path, file, os.fstat(file.fileno()).st_size)
    except _DamageError as damage:
        raise ValueError(f"{path} {damage}; write it again with sslortho write_beton") from None


class _DamageError(Exception):
    """A fault of a file; the message follows the file's name."""


def _read(path: Path, file: IO[bytes], file_size: int) -> BetonFile:
    header = _read_header(file, file_size)
    fields = _read_fields(file, int(header["num_fields"]))
    record, count = record_type([i for _, i in fields]), int(header["num_samples"])
    metadata_start = HEADER.itemsize + len(fields) * FIELD.itemsize
    start, end = metadata_start + count * record.itemsize, int(header["alloc_table_ptr"])
    if start > end:
        raise _DamageError(f"is damaged: metadata of {count} samples do not fit before its table")
    metadata = _read_array(file, metadata_start, record, count)
    image, label = _find(fields, "image", IMAGE_FIELD), _find(fields, "label", INT_FIELD)
    images, labels = (metadata[f"f{place}"].copy() for place in (image, label))
    if count == 0:
        raise _DamageError("holds no samples")
    table = _read_table(file, start, end, file_size)
    sizes = _look_up_sizes(images["data_ptr"], table)
    _check_images(images, sizes, int(header["page_size"]))
    _check_pixels(path, images)
    names = fields[image][0], fields[label][0]
    return BetonFile(path, int(header["page_size"]), images, sizes, labels, *names)


def _read_array(file: IO[bytes], offset: int, dtype: np.dtype, count: int) -> NDArray[np.void]:
    file.seek(offset)
    content = file.read(count * dtype.itemsize)
    if len(content) != count * dtype.itemsize:  # the file has shrunk since its size was read
        raise _DamageError(f"is cut short: it ends before byte {offset + count * dtype.itemsize}")
    return np.frombuffer(content, dtype, count)


def _read_header(file: IO[bytes], file_size: int) -> np.void:
    if file_size < HEADER.itemsize:
        raise _DamageError(f"is not a beton: it has {file_size} bytes, a header {HEADER.itemsize}")
    header = _read_array(file, 0, HEADER, 1)[0]
    page_size, fields = int(header["page_size"]), int(header["num_fields"])
    # the format has no signature; what any version must hold tells other files apart
    is_power = page_size & (page_size - 1) == 0
    if not (is_power and MIN_PAGE_SIZE <= page_size <= MAX_PAGE_SIZE and fields):
        raise _DamageError("is not a beton: its header makes no sense")
    if header["version"] != VERSION:
        raise _DamageError(
            f"is a beton of version {header['version']}, and version {VERSION} is wanted"
        )
    if header["alloc_table_ptr"] == 0:
        raise _DamageError("is unfinished: the program that wrote it was interrupted")
    if header["alloc_table_ptr"] > file_size:
        raise _DamageError(
            f"is cut short: it has {file_size} bytes, and its allocation table begins at byte "
            f"{header['alloc_table_ptr']}"
        )
    if HEADER.itemsize + fields * FIELD.itemsize > header["alloc_table_ptr"]:
        raise _DamageError(
            f"is not a beton: {fields} field descriptors do not fit before its table"
        )
    return header


def _read_fields(file: IO[bytes], count: int) -> list[tuple[str, int]]:
    """(name, type id) of each field."""
    fields = []
    for descriptor in _read_array(file, HEADER.itemsize, FIELD, count):
        name = descriptor["name"].tobytes().split(b"\0")[0].decode("ascii", "backslashreplace")
        type_id = int(descriptor["type_id"])
        if type_id == CUSTOM_FIELD:
            raise _DamageError(f"has a field {name!r} of a custom type, whose size is unknown")
        if type_id not in FIELD_TYPES:
            raise _DamageError(f"is damaged: its field {name!r} has the unknown type {type_id}")
        fields.append((name, type_id))
    return fields


def _find(fields: Sequence[tuple[str, int]], name: str, type_id: int) -> int:
    """Place of the field of this name, or of the only one of this type."""
    wanted = FIELD_TYPES[type_id][0]
    found = [i for i, field in enumerate(fields) if field[0] == name]
    if not found:
        found = [i for i, field in enumerate(fields) if field[1] == type_id]
        if len(found) > 1:
            several = ", ".join(repr(fields[i][0]) for i in found)
            raise _DamageError(
                f"has no field {name!r}, and {len(found)} {wanted}s that could be meant ({several}); one "
                f"of them must be called {name!r}"
            )
    if len(found) != 1:
        present = ", ".join(repr(field[0]) for field in fields)
        number = "two fields" if found else "no field"
        raise _DamageError(f"has {number} {name!r} (it has {present}); one {wanted} is needed")
    if fields[found[0]][1] != type_id:
        kind = FIELD_TYPES[fields[found[0]][1]][0]
        raise _DamageError(f"has a {kind} {name!r}, and it must be a {wanted}")
    return found[0]


def _read_table(file: IO[bytes], start: int, end: int, file_size: int) -> NDArray[np.void]:
    """Read the allocation table at `end`, and check that its entries lie from `start` to `end`.

    Empty entries may lie elsewhere: FFCV may put one before the data.
    """
    count, rest = divmod(file_size - end, ALLOCATION.itemsize)
    if rest or count == 0:
        raise _DamageError(
            f"is cut short: its allocation table has {file_size - end} bytes, which must be a multiple "
            f"of {ALLOCATION.itemsize}"
        )
    table = _read_array(file, end, ALLOCATION, count)
    ptr, size = table["ptr"], table["size"]
    outside = (ptr < start) | (ptr > end)
    outside |= size > np.uint64(end) - np.minimum(ptr, np.uint64(end))  # no overflow of ptr + size
    outside &= size > 0
    if outside.any():
        i = int(outside.argmax())
        raise _DamageError(
            f"is damaged: entry {i} of its allocation table, {size[i]} bytes at {ptr[i]}, lies "
            f"outside of the data, bytes {start} to {end}"
        )
    return table


def _look_up_sizes(ptrs: NDArray[np.uint64], table: NDArray[np.void]) -> NDArray[np.uint64]:
    """Number of bytes allocated at each pointer."""
    ptr, size = table["ptr"].copy(), table["size"].copy()
    if not (ptr[1:] > ptr[:-1]).all():  # FFCV's processes write it as they finish
        order = np.lexsort((size, ptr))  # after an empty allocation comes the one at the same place
        ptr, size = ptr[order], size[order]
    place = np.searchsorted(ptr, ptrs, side="right").astype(np.int64) - 1
    known = (place >= 0) & (ptr[place] == ptrs)
    if not known.all():
        i = int(known.argmin())
        raise _DamageError(
            f"is damaged or cut short: image {i} at byte {ptrs[i]} is not in its allocation table "
            f"of {len(table)} entries"
        )
    return size[place]


def _check_images(images: NDArray[np.void], sizes: NDArray[np.uint64], page_size: int) -> None:
    """Raise _DamageError for the first image that cannot be what its record says."""
    width, height = images["width"].astype(np.uint64), images["height"].astype(np.uint64)
    needed = np.where(images["mode"] == RAW, 3 * width * height, np.uint64(1))
    in_page = images["data_ptr"] % np.uint64(page_size)
    wrong = {
        "has a mode other than 0 (jpg) and 1 (raw)": images["mode"] > RAW,
        "has no pixels": (width == 0) | (height == 0),
        "has fewer bytes than its pixels need": sizes < needed,
        f"crosses a page of {page_size} bytes": sizes > np.uint64(page_size) - in_page,
    }
    for what, where in wrong.items():
        if where.any():
            i = int(where.argmax())
            raise _DamageError(
                f"is damaged: image {i} {what} (mode {images['mode'][i]}, {width[i]} x {height[i]} "
                f"pixels, {sizes[i]} bytes at {images['data_ptr'][i]})"
            )


def _check_pixels(path: Path, images: NDArray[np.void]) -> None:
    """Apply PIL's limits, before memory is taken for the largest image."""
    most = Image.MAX_IMAGE_PIXELS
    pixels = images["width"].astype(np.int64) * images["height"]
    pixels[images["mode"] == RAW] = 0
    i = int(pixels.argmax())
    if most is None or pixels[i] <= most:
        return
    what = f"image {i} is said to have {pixels[i]} pixels, more than {most}"
    if pixels[i] > 2 * most:
        raise _DamageError(
            f"is damaged, or could be a decompression bomb: {what} twice over (PIL's "
            "Image.MAX_IMAGE_PIXELS)"
        )
    warnings.warn(
        f"{path}: {what} (PIL's Image.MAX_IMAGE_PIXELS); it could be a decompression bomb",
        Image.DecompressionBombWarning,
        stacklevel=2,
    )
