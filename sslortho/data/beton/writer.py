"""Writing an image set as a .beton: threads encode, one writer lays the images out in their order.

The file is the same byte for byte whatever the number of threads.
"""

import contextlib
import warnings
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from sslortho.atomic import atomic_file, find_partials
from sslortho.data.beton.file_format import MAX_PAGE_SIZE, MIN_PAGE_SIZE
from sslortho.data.beton.image_encoding import (
    EncodedImage,
    ImageEncoding,
    Mode,
    encode_content,
    encode_pixels,
)
from sslortho.data.beton.images import BetonImages
from sslortho.data.beton.layout import BetonLayout
from sslortho.data.beton.manifest import manifest_path, names_path, write_manifest, write_names
from sslortho.data.decoding import BrokenImageError
from sslortho.data.image_sets import ImageSet
from sslortho.data.prefetch import available_cores

PAGE_SIZE = 1 << 23
"""8 MiB; as FFCV's DatasetWriter."""

LOOK_AHEAD = 4
"""Images under way for each thread: enough that one slow image does not stop the others."""

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
    """Write images and labels; beside them a manifest and, for image files (in shards too), a list of their
    names.

    For `train.beton` these are `train.beton.json` and `train.beton.names`. Each file appears whole or
    not at all. FFCV itself reads the beton too: its fields are "image" and "label".

    Args:
        data: the images, in the order in which they are stored.
        path: of the file, in an existing folder.
        mode, max_resolution, quality, smart_threshold: see ImageEncoding.
        page_size: bytes, a power of two from 2 MiB to 2 GiB; largest size of an encoded image.
        workers: threads that encode. Default: one for each core.
        skip_broken: leave out image files that cannot be decoded, and list them in the manifest.
        overwrite: replace an existing file.
        source: origin of the data, for the manifest.
        progress: show a bar with images per second.
        before_each: called before each image; an error from it ends the writing, and nothing is left.

    Returns:
        The manifest. `count` is the number of images: `raw` as pixels, `jpg` encoded here, `kept` with
        their file's own JPEG bytes. `skipped` are paths, `bytes` is the size of the file, and
        `source_sha256` is over the SHA-256 of each written source's bytes and its label (int64,
        little-endian), in order.

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

    def clear_old() -> Path:
        # a manifest of another file must not stand beside this one, not for a moment
        manifest_path(path).unlink(missing_ok=True)
        names_path(path).unlink(missing_ok=True)
        return path

    with atomic_file(path, clear_old) as file, contextlib.closing(images), contextlib.closing(bar):
        layout = BetonLayout(file, data, page_size)
        for i, image in enumerate(bar):
            before_each()
            layout.add(i, image)
        layout.finish()
    settings = {
        **(source or {}),
        "mode": mode,
        "max_resolution": max_resolution,
        "quality": quality,
        "smart_threshold": smart_threshold,
        "page_size": page_size,
    }
    names = data.file_names()
    if names is not None:
        write_names(path, [name for i, name in enumerate(names) if i not in layout.left_out])
    return write_manifest(path, _describe(data, layout, settings))


def _describe(data: ImageSet, layout: BetonLayout, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Content of the manifest."""
    return {
        "count": layout.count,
        "bytes": layout.position,
        **layout.stored,
        "classes": list(data.classes),
        "skipped": layout.skipped,
        "settings": dict(settings),
        "source_sha256": layout.hash.hexdigest(),
    }


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
    if isinstance(data, BetonImages):  # its images have been encoded once already
        raise ValueError(
            f"the data is in a beton already, {data.path}; give its source to change it"
        )
    if len(data) == 0:
        raise ValueError("the data has no images; there is nothing to write")
    if data.in_memory and encoding.max_resolution is not None:
        height, width = data.first_size
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
            f"{leftover} ({leftover.stat().st_size / 1e6:.0f} MB) was left by a killed process, or another "
            "process is writing it now; if none is, remove it",
            stacklevel=3,
        )


def _encoder(data: ImageSet, encoding: ImageEncoding) -> Encode:
    def encode(index: int) -> EncodedImage:
        content = data.content_of(index)
        if content is None:
            return encode_pixels(data.open(index), f"image {index}", encoding)
        name = data.file_of(index) or data.name_of(index)
        return encode_content(content, name, encoding, data.upright)

    return encode


def _encode_in_order(
    encode: Encode, count: int, workers: int, skip_broken: bool
) -> Generator[EncodedImage | None, None, None]:
    """Encode samples 0 to count - 1 in threads, a bounded number ahead; None for a skipped one."""
    # PIL itself calls this at the first rare format, when other threads' files can seem broken
    Image.init()
    pending: deque[Future[EncodedImage]] = deque()
    pool = ThreadPoolExecutor(workers)

    def next_done() -> EncodedImage | None:
        try:
            return pending.popleft().result()
        except BrokenImageError:
            if skip_broken:
                return None
            raise

    try:
        for i in range(count):
            pending.append(pool.submit(encode, i))
            if len(pending) >= workers * LOOK_AHEAD:
                yield next_done()
        while pending:
            yield next_done()
    finally:
        pool.shutdown(cancel_futures=True)
