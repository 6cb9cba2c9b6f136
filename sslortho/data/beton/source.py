"""A .beton file as a source for `ViewLoader`: its table, its bytes in memory, and a JPEG decoder."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sslortho.augment.cpu.view_kernel import crop_views, render_views
from sslortho.augment.renderer import Draws, Renderer
from sslortho.data.batches import Batch
from sslortho.data.beton.file_format import JPG, RAW, read_beton
from sslortho.data.beton.page_cache import PageCache
from sslortho.data.beton.stored_jpeg import BrokenSampleError, decode_stored
from sslortho.data.image_sets import Cache
from sslortho.data.prefetch import Job
from sslortho.data.view_loader import Indices


class BetonSamples(Protocol):
    """Samples of a .beton file; see `data.beton.images.BetonImages`."""

    @property
    def path(self) -> Path: ...

    @property
    def places(self) -> NDArray[np.int64]: ...

    @property
    def pages(self) -> NDArray[np.int64]: ...

    @property
    def labels(self) -> Tensor: ...

    @property
    def image_field(self) -> str: ...


class _Map:
    """The bytes of a file as memory, read from the disk when they are first used.

    The array is said to be writable, and nobody writes to it. numba takes arrays that are read-only for
    another type, and would compile every kernel once more for them.
    """

    def __init__(self, path: Path) -> None:
        self.map = np.memmap(path, np.uint8, "r")
        self.__array_interface__: dict[str, Any] = {
            **self.map.__array_interface__,
            "data": (self.map.ctypes.data, False),
        }


class _MappedFile:
    """Bytes of a file that is mapped into memory."""

    def __init__(self, path: Path) -> None:
        self.content: NDArray[np.uint8] = np.asarray(_Map(path))  # which keeps the map open

    def start_batch(self, step: int) -> None:
        """Nothing: the system reads what is used, and keeps it."""

    def read(self, start: int, size: int) -> NDArray[np.uint8]:
        return self.content[start : start + size]


class _Memory(threading.local):
    """Memory of one thread for the pixels of the image that it decodes."""

    def __init__(self, size: int) -> None:
        self.pixels = np.empty(size, np.uint8)


class _BetonReading:
    """Views cut out of a beton's images, one after another."""

    def __init__(
        self, source: "BetonSource", content: _MappedFile | PageCache, renderer: Renderer
    ) -> None:
        self.source, self.content = source, content
        self.settings, self.channels_last = renderer.settings, renderer.channels_last
        self.memory = _Memory(source.largest)

    def prepare(self, step: int, previous: Job[Batch] | None) -> None:
        """For a process cache: fetch the pages of this batch into the memory of earlier ones."""
        if self.source.cache == "process" and previous is not None:
            previous.wait()
        self.content.start_batch(step)

    def _decode(self, indices: Indices) -> Iterator[NDArray[np.uint8]]:
        """Pixels of each sample, (height, width, 3), until the next one is asked for."""
        source, memory = self.source, self.memory.pixels
        places = source.places[indices]
        records, sizes = source.file.images[places].tolist(), source.file.sizes[places].tolist()
        for i, ((mode, width, height, start), size) in enumerate(zip(records, sizes, strict=True)):
            stored = self.content.read(start, size)
            if mode == RAW:
                yield stored[: 3 * height * width].reshape(height, width, 3)
                continue
            try:
                pixels = decode_stored(stored, height, width, memory)
            except ValueError as error:
                place = int(places[i])
                raise BrokenSampleError(source.data.path, place, str(error)) from error
            yield pixels

    def crop(
        self, indices: Indices, draws: Draws, out: NDArray[np.uint8], first: int, last: int
    ) -> None:
        for i, pixels in enumerate(self._decode(indices[first:last]), first):
            crop_views(pixels, draws.uniforms[i], self.settings, out[i].reshape(1, 1, -1))

    def render(
        self, indices: Indices, draws: Draws, out: NDArray[np.float32], first: int, last: int
    ) -> None:
        settings, channels_last = self.settings, self.channels_last
        for i, pixels in enumerate(self._decode(indices[first:last]), first):
            uniforms, parameters = draws.uniforms[i], draws.parameters[i]
            render_views(pixels, uniforms, parameters, settings, channels_last, out, i)


class BetonSource:
    """Images of a beton; JPEGs are decoded by libjpeg-turbo, which simplejpeg brings along.

    Args:
        data: the file, checked, and the samples to read.
        cache: "os" maps the file into memory: fastest if it fits, and shared among the ranks of a
            machine. "process" reads whole pages ahead, for data larger than memory and for slow
            disks; it needs an order that is a `PageOrder`.

    Raises ValueError as `read_beton`.
    """

    def __init__(self, data: BetonSamples, cache: Cache = "os") -> None:
        self.data = data
        self.cache: Cache = cache
        self.file_state = file_state(data.path)  # before it is read: what changes later is noticed
        self.file = read_beton(data.path)
        self.places = data.places
        images = self.file.images[data.places]
        jpegs = images[images["mode"] == JPG]
        sizes = 3 * jpegs["height"].astype(np.int64) * jpegs["width"]
        self.largest = int(sizes.max(initial=0))
        """Bytes of the pixels of the largest JPEG."""

    @property
    def labels(self) -> Tensor:
        """int64 (n,)."""
        return self.data.labels

    @contextlib.contextmanager
    def open(self, batches: Sequence[Indices], renderer: Renderer) -> Iterator[_BetonReading]:
        """A reading of these batches, in this order.

        Raises OSError if the file has changed since it was opened.
        """
        check_unchanged(self.data.path, self.file_state)
        with contextlib.ExitStack() as stack:
            if self.cache == "process":
                pages = [self.data.pages[batch] for batch in batches]
                cache = PageCache(self.data.path, self.file.page_size, pages)
                yield _BetonReading(self, stack.enter_context(cache), renderer)
            else:
                yield _BetonReading(self, _MappedFile(self.data.path), renderer)


def file_state(path: Path) -> tuple[int, int]:
    """Size of a file in bytes, and the time of its last change in nanoseconds since 1970.

    Without its inode, which file systems such as s3fs and sshfs number anew now and then.
    """
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def check_unchanged(path: Path, state: tuple[int, int]) -> None:
    """Raise OSError if a beton is no longer in this state of `file_state`.

    Places of images read from the old file are wrong in a new one, and a memory map of a shorter one would
    crash the process.
    """
    if file_state(path) != state:
        raise OSError(f"{path} has changed since it was opened; start again")
