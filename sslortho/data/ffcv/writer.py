"""Writes a data set as a .beton: threads encode, one writer lays out, in the order of the data.

The file is the same byte for byte whatever the number of threads.
"""

import contextlib
import hashlib
import json
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from sslortho.atomic import atomic_file, find_partials
from sslortho.data.ffcv.beton import (
    ALLOCATION,
    FIELD,
    HEADER,
    IMAGE_FIELD,
    INT_FIELD,
    MAX_PAGE_SIZE,
    MIN_PAGE_SIZE,
    RAW,
    VERSION,
    record_type,
)
from sslortho.data.ffcv.names import names_path, write_names
from sslortho.data.ffcv.image_encoding import (
    BrokenImageError,
    EncodedImage,
    ImageEncoding,
    Mode,
    encode_file,
    encode_pixels,
)
from sslortho.data.image_sets import BetonImages, ImageArray, ImageFiles, ImageSet
from sslortho.data.prefetch import available_cores
from sslortho.version import __version__

PAGE_SIZE = 1 << 23
"""8 MiB; as FFCV's DatasetWriter."""

LOOK_AHEAD = 4
"""Images in the making for each thread: enough for one slow image not to stop the others."""

FIELDS = {"image": IMAGE_FIELD, "label": INT_FIELD}

Encode = Callable[[int], EncodedImage]


def write_beton(
    data: ImageSet,
    path: Path,
    *,
    mode: Mode = "jpg",
    max_resolution: int | None = None,
    quality: int | None = None,
    smart_threshold: float | None = None,
    page_size: int = PAGE_SIZE,
    workers: int | None = None,
    skip_broken: bool = False,
    overwrite: bool = False,
    source: Mapping[str, Any] | None = None,
    progress: bool = False,
    before_each: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Write images and labels, and beside them a manifest (`train.beton.json`) and, of image files,
    their names (`train.beton.names`).

    Both appear whole or not at all. FFCV reads the file too: fields "image" and "label".

    Args:
        data: the images, in the order in which they are stored.
        path: of the file, in an existing folder.
        mode, max_resolution, quality, smart_threshold: see ImageEncoding.
        page_size: bytes, a power of two from 2 MiB to 2 GiB; what an image takes at the most.
        workers: threads that encode. Default: one a core.
        skip_broken: leave out image files that cannot be decoded, and list them in the manifest.
        overwrite: replace an existing file.
        source: what the manifest says of where the data came from.
        progress: show a bar with images per second.
        before_each: called before each image; what it raises ends the writing, and nothing is left.

    Returns:
        The manifest. `count` images, of which `raw` pixels, `jpg` encoded here, `kept` with their
        file's own JPEG bytes; `skipped` paths; `bytes` of the file; `source_sha256` over the
        SHA-256 of each written source's bytes and its label (int64, little-endian), in order.

    Raises:
        ValueError: an option out of range or without effect, an existing file, no images, a broken
            image (by name), an image larger than a page.
    """
    encoding = ImageEncoding(mode, max_resolution, quality, smart_threshold)
    workers = available_cores() if workers is None else workers
    _check(data, path, encoding, page_size, workers, overwrite)
    _warn_of_leftovers(path)
    encode = _encoder(data, encoding)
    images = _encode_in_order(encode, len(data), workers, skip_broken)
    bar = tqdm(images, total=len(data), unit="image", disable=not progress, smoothing=0.1)
    with atomic_file(path) as file, contextlib.closing(images), contextlib.closing(bar):
        layout = _Layout(file, data, page_size)
        for i, image in enumerate(bar):
            before_each()
            layout.add(i, image)
        layout.finish()
        # a manifest of another file must not stand beside this one, not for a moment
        manifest_path(path).unlink(missing_ok=True)
        names_path(path).unlink(missing_ok=True)
    settings = {
        **(source or {}),
        "mode": mode,
        "max_resolution": max_resolution,
        "quality": quality,
        "smart_threshold": smart_threshold,
        "page_size": page_size,
    }
    if isinstance(data, ImageFiles):
        skipped = set(layout.skipped)
        write_names(path, (file for file in data.paths if file not in skipped))
    return _write_manifest(path, data, layout, settings)


def manifest_path(path: Path) -> Path:
    """Where the manifest of a .beton lies."""
    return path.with_name(path.name + ".json")


def _check(
    data: ImageSet,
    path: Path,
    encoding: ImageEncoding,
    page_size: int,
    workers: int,
    overwrite: bool,
) -> None:
    if not (MIN_PAGE_SIZE <= page_size <= MAX_PAGE_SIZE and page_size & (page_size - 1) == 0):
        raise ValueError(f"page_size={page_size} must be a power of two from 2 MiB to 2 GiB")
    if workers < 1:
        raise ValueError(f"workers={workers} must be 1 or more")
    if isinstance(data, BetonImages):
        raise ValueError(
            f"the data is in a beton already, {data.path}; give its source to change it"
        )
    if len(data) == 0:
        raise ValueError("the data has no images; there is nothing to write")
    if isinstance(data, ImageArray) and encoding.max_resolution is not None:
        height, width = data.images.shape[2:]
        if encoding.max_resolution >= max(height, width):
            raise ValueError(
                f"max_resolution={encoding.max_resolution} has no effect on images of "
                f"{width} x {height}"
            )
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: there is no folder {path.parent}")
    if path.is_dir() or (path.exists() and not overwrite):
        raise ValueError(f"{path} exists already; give another path, or overwrite")


def _warn_of_leftovers(path: Path) -> None:
    for leftover in find_partials(path):
        warnings.warn(
            f"{leftover} ({leftover.stat().st_size / 1e6:.0f} MB) is what a killed process left, or "
            "another one is writing it now; if none is, remove it",
            stacklevel=3,
        )


def _encoder(data: ImageSet, encoding: ImageEncoding) -> Encode:
    if isinstance(data, ImageFiles):
        return lambda i: encode_file(data.paths[i], encoding)
    assert isinstance(data, ImageArray)
    return lambda i: encode_pixels(data.images[i].permute(1, 2, 0).numpy(), f"image {i}", encoding)


def _encode_in_order(
    encode: Encode, count: int, workers: int, skip_broken: bool
) -> Generator[EncodedImage | None, None, None]:
    """Encode 0 to count - 1 in threads, a bounded number ahead; None for what is skipped."""
    Image.init()  # PIL's own, at the first rare format, can make other threads take theirs for broken
    pending: deque[Future[EncodedImage]] = deque()
    pool = ThreadPoolExecutor(workers)

    def next_done() -> EncodedImage | None:
        try:
            return pending.popleft().result()
        except BrokenImageError as error:
            if skip_broken:
                return None
            raise ValueError(
                f"{error}; remove or replace it, or leave it out with skip_broken"
            ) from error

    try:
        for i in range(count):
            pending.append(pool.submit(encode, i))
            if len(pending) >= workers * LOOK_AHEAD:
                yield next_done()
        while pending:
            yield next_done()
    finally:
        pool.shutdown(cancel_futures=True)


class _Layout:
    """Puts images into a file, one after the other, none across a page."""

    def __init__(self, file: IO[bytes], data: ImageSet, page_size: int) -> None:
        self.file = file
        self.data = data
        self.page_size = page_size
        self.metadata = np.zeros(len(data), record_type(list(FIELDS.values())))
        self.allocations = np.zeros(len(data), ALLOCATION)
        self.count = 0
        self.skipped: list[str] = []
        self.stored = Counter(raw=0, jpg=0, kept=0)
        self.hash = hashlib.sha256()
        self.labels = data.labels.numpy().astype("<i8")
        self.metadata_start = HEADER.itemsize + len(FIELDS) * FIELD.itemsize
        self.position = self.metadata_start + self.metadata.nbytes
        self._skip_to(-(-self.position // page_size) * page_size)

    def _skip_to(self, position: int) -> None:
        self.position = self.file.seek(position)  # what is skipped reads as zeros

    def add(self, index: int, image: EncodedImage | None) -> None:
        """The image of the data's sample `index`, or None for one that is left out."""
        if image is None:
            assert isinstance(self.data, ImageFiles)  # no other can be broken
            self.skipped.append(self.data.paths[index])
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
        name = self.data.paths[index] if isinstance(self.data, ImageFiles) else f"image {index}"
        needed = max(1 << (len(image.content) - 1).bit_length(), MIN_PAGE_SIZE) >> 20
        raise ValueError(
            f"{name} takes {len(image.content) / 2**20:.1f} MiB ({image.width} x {image.height} "
            f"pixels), a page {self.page_size >> 20} MiB; give --page_size {needed} (MiB), or a "
            "smaller --max_resolution"
        )

    def finish(self) -> None:
        """The allocation table, the metadata, and last the header that makes the file a beton."""
        if self.count == 0:
            raise ValueError(f"all {len(self.data)} images are broken, {self.skipped[0]} first")
        self._skip_to(-(-self.position // 8) * 8)
        table = self.position
        self.position += self.file.write(self.allocations[: self.count].tobytes())
        self.file.seek(HEADER.itemsize)
        self.file.write(_field_descriptors().tobytes())
        self.file.write(self.metadata[: self.count].tobytes())
        self.file.flush()
        self.file.seek(0)
        header = (VERSION, len(FIELDS), self.page_size, self.count, table)
        self.file.write(np.array(header, HEADER).tobytes())
        self.file.flush()


def _field_descriptors() -> NDArray[np.void]:
    descriptors = np.zeros(len(FIELDS), FIELD)
    for descriptor, (name, type_id) in zip(descriptors, FIELDS.items(), strict=True):
        descriptor["type_id"] = type_id
        descriptor["name"][: len(name)] = np.frombuffer(name.encode("ascii"), np.uint8)
    return descriptors


def _write_manifest(
    path: Path, data: ImageSet, layout: _Layout, settings: Mapping[str, Any]
) -> dict[str, Any]:
    manifest = {
        "count": layout.count,
        "bytes": layout.position,
        **layout.stored,
        "classes": list(data.classes),
        "skipped": layout.skipped,
        "settings": dict(settings),
        "source_sha256": layout.hash.hexdigest(),
        "sslortho": __version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    with atomic_file(manifest_path(path)) as file:
        file.write((json.dumps(manifest, indent=2) + "\n").encode())
    return manifest
