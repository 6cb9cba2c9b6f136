"""Layout of a .beton that is being written: images one after another, none across a page."""

import hashlib
from collections import Counter
from typing import IO

import numpy as np
from numpy.typing import NDArray

from sslortho.data.beton.file_format import (
    ALLOCATION,
    FIELD,
    HEADER,
    IMAGE_FIELD,
    INT_FIELD,
    MIN_PAGE_SIZE,
    RAW,
    VERSION,
    record_type,
)
from sslortho.data.beton.image_encoding import EncodedImage
from sslortho.data.image_sets import ImageSet

FIELDS = {"image": IMAGE_FIELD, "label": INT_FIELD}


class BetonLayout:
    """Writes encoded images and their metadata into a file.

    Args:
        file: empty, seekable; on the disk it is a beton only after `finish`.
        data: the image set whose samples are added, for labels and names.
        page_size: bytes; largest size of an encoded image.
    """

    def __init__(self, file: IO[bytes], data: ImageSet, page_size: int) -> None:
        self.file = file
        self.data = data
        self.page_size = page_size
        self.metadata = np.zeros(len(data), record_type(list(FIELDS.values())))
        self.allocations = np.zeros(len(data), ALLOCATION)
        self.count = 0
        """Images so far."""
        self.skipped: list[str] = []
        """Paths of the images that were left out."""
        self.left_out: set[int] = set()
        """Their places in the data."""
        self.stored = Counter(raw=0, jpg=0, kept=0)
        """Images so far by form: pixels, JPEGs encoded here, JPEGs with their file's own bytes."""
        self.hash = hashlib.sha256()
        self.labels = data.labels.numpy().astype("<i8")
        self.metadata_start = HEADER.itemsize + len(FIELDS) * FIELD.itemsize
        self.position = self.metadata_start + self.metadata.nbytes
        self._skip_to(-(-self.position // page_size) * page_size)

    def _skip_to(self, position: int) -> None:
        self.position = self.file.seek(position)  # what is skipped reads as zeros

    def add(self, index: int, image: EncodedImage | None) -> None:
        """Write the image of sample `index`; None leaves it out.

        Raises ValueError, naming the image, if it is larger than a page.
        """
        if image is None:
            self.left_out.add(index)
            self.skipped.append(self.data.file_of(index) or self.data.name_of(index))
            return
        size = len(image.content)
        if size > self.page_size:
            self._refuse(index, image)
        left_in_page = -self.position % self.page_size or self.page_size
        if size > left_in_page:
            self._skip_to(self.position + left_in_page)
        record = (image.mode, image.width, image.height, self.position)
        self.metadata[self.count] = (record, self.labels[index])
        self.allocations[self.count] = (self.count, self.position, size)
        self.file.write(image.content)
        self.position += size
        self.count += 1
        self.stored["kept" if image.kept else "raw" if image.mode == RAW else "jpg"] += 1
        self.hash.update(image.digest + self.labels[index].tobytes())

    def _refuse(self, index: int, image: EncodedImage) -> None:
        name = self.data.file_of(index) or f"image {index}"
        needed = max(1 << (len(image.content) - 1).bit_length(), MIN_PAGE_SIZE) >> 20
        raise ValueError(
            f"{name} takes {len(image.content) / 2**20:.1f} MiB ({image.width} x {image.height} "
            f"pixels), a page {self.page_size >> 20} MiB; give --page_size {needed} (MiB), or a "
            "smaller --max_resolution"
        )

    def finish(self) -> None:
        """Write the allocation table, the metadata, and last the header that makes the file a beton.

        Raises ValueError if every image was left out.
        """
        if self.count == 0:
            raise ValueError(f"all {len(self.data)} images are broken, {self.skipped[0]} first")
        self._skip_to(-(-self.position // 8) * 8)
        table = self.position
        self.position += self.file.write(self.allocations[: self.count].tobytes())
        self.file.seek(HEADER.itemsize)
        self.file.write(field_descriptors().tobytes())
        self.file.write(self.metadata[: self.count].tobytes())
        self.file.flush()
        self.file.seek(0)
        header = (VERSION, len(FIELDS), self.page_size, self.count, table)
        self.file.write(np.array(header, HEADER).tobytes())
        self.file.flush()


def field_descriptors() -> NDArray[np.void]:
    """FIELD records of an image and its label."""
    descriptors = np.zeros(len(FIELDS), FIELD)
    for descriptor, (name, type_id) in zip(descriptors, FIELDS.items(), strict=True):
        descriptor["type_id"] = type_id
        descriptor["name"][: len(name)] = np.frombuffer(name.encode("ascii"), np.uint8)
    return descriptors
