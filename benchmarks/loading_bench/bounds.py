"""Bounds for the loaders: decoding alone, and the parts of ours_beton one by one."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from PIL import Image
from simplejpeg import decode_jpeg

from sslortho.augment import ViewRenderer
from sslortho.augment.cpu.view_kernel import crop_views, render_crops
from sslortho.data.beton.file_format import read_beton
from sslortho.data.beton.stored_jpeg import decode_stored
from sslortho.data.prefetch import PART

from .workload import FAST_PASSES, Pipeline, Workload

PARTS_IMAGES = 512
"""Most images that `ours_parts` keeps decoded, 0.6 MB each."""

Part = Callable[[int, int], Any]


class Threads:
    """Threads that call a function on consecutive parts of a range, as the loaders do."""

    def __init__(self, workers: int) -> None:
        self.pool = ThreadPoolExecutor(workers, "bench")

    def cover(self, count: int, part: Part) -> float:
        """Call `part(first, last)` until range(count) is covered; returns seconds."""
        start = time.perf_counter()
        bounds = [(first, min(first + PART, count)) for first in range(0, count, PART)]
        for _ in self.pool.map(lambda bound: part(*bound), bounds):
            pass
        return time.perf_counter() - start


class DecodeFloor:
    """Decodes JPEGs in memory and discards the pixels."""

    def __init__(self, jpegs: list[bytes], work: Workload) -> None:
        self.jpegs = jpegs
        self.places = work.places(FAST_PASSES).tolist()
        self.threads = Threads(work.workers)

    def run(self) -> int:
        """All passes; returns the number of images decoded."""
        self.threads.cover(len(self.places), self._decode)
        return len(self.places)

    def _decode(self, first: int, last: int) -> None:
        for place in self.places[first:last]:
            decode_image(self.jpegs[place])


def decode_image(content: bytes) -> NDArray[np.uint8]:
    """Decode to (height, width, 3): simplejpeg, the fastest; PIL for other formats than JPEG."""
    try:
        return decode_jpeg(content, "RGB")
    except ValueError:
        return np.asarray(Image.open(BytesIO(content)).convert("RGB"))


def create_decode_floor(work: Workload) -> Pipeline:
    return DecodeFloor([Path(path).read_bytes() for path in work.paths], work)


def create_decode_floor_beton(work: Workload) -> Pipeline:
    return DecodeFloor(read_jpegs(work), work)


def read_jpegs(work: Workload) -> list[bytes]:
    """The JPEGs of the beton, in the order of the workload's paths."""
    assert work.beton is not None
    path: Path = work.beton / "train.beton"
    file, content = read_beton(path), path.read_bytes()
    bounds = zip(file.images["data_ptr"].tolist(), file.sizes.tolist(), strict=True)
    return [content[begin : begin + size] for begin, size in bounds]


def _ends(sizes: list[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


@njit(nogil=True)
def crop_images(pixels, starts, sides, uniforms, settings, out, count):
    """Call `crop_views` on images that lie one after another in `pixels`."""
    for i in range(count):
        image = pixels[starts[i] : starts[i + 1]].reshape(sides[i, 0], sides[i, 1], 3)
        for view in range(len(settings)):
            row = settings[view : view + 1]
            crop_views(image, uniforms[i, view : view + 1], row, out[view, i : i + 1])


class Parts:
    """Times decoding, two crops and colour one by one, each over all images, with `workers` threads.

    Decoding and cropping discard their results, so that these stay in the cache, as they do in the
    loader. The input of each part is made beforehand.

    milliseconds: a dictionary a round, part to one thread's milliseconds an image.
    """

    def __init__(self, work: Workload) -> None:
        assert work.beton is not None
        self.workers, self.threads = work.workers, Threads(work.workers)
        jpegs, images = read_jpegs(work), read_beton(work.beton / "train.beton").images
        chosen = np.unique(np.linspace(0, len(jpegs) - 1, PARTS_IMAGES).round().astype(int))
        self.count = len(chosen)
        self.sides = np.stack([images["height"], images["width"]], axis=1)[chosen].astype(np.int64)
        self.jpegs = [jpegs[i] for i in chosen]
        self.starts = _ends((3 * self.sides.prod(axis=1)).tolist())
        renderer = ViewRenderer(work.specs, seed=0, channels_last=True)
        self.settings, self.draws = renderer.settings, renderer.draw(np.arange(self.count), 0)
        size = work.specs[0].crop_size
        self.pixels = np.zeros(self.starts[-1], np.uint8)
        self.crops = np.zeros((2, self.count, size, size, 3), np.uint8)
        self.views = np.zeros((2, self.count, 3 * size * size), np.float32)
        for i in range(self.count):
            self._decode_one(i, self.pixels[self.starts[i] :])
        self._crop_into(self.crops, 0, self.count)
        self.milliseconds: list[dict[str, float]] = []

    def run(self) -> int:
        """All passes over all images; returns their number."""
        parts = {"decode": self._decode, "crop": self._crop, "colour": self._colour}
        seconds = dict.fromkeys(parts, 0.0)
        for _ in range(FAST_PASSES):
            for name, part in parts.items():
                seconds[name] += self.threads.cover(self.count, part)
        share = 1000 * self.workers / (FAST_PASSES * self.count)
        self.milliseconds.append({name: share * took for name, took in seconds.items()})
        return FAST_PASSES * self.count

    def _decode_one(self, i: int, memory: NDArray[np.uint8]) -> None:
        height, width = self.sides[i].tolist()
        decode_stored(self.jpegs[i], height, width, memory)

    def _decode(self, first: int, last: int) -> None:
        largest = np.empty(3 * self.sides[first:last].prod(axis=1).max(), np.uint8)
        for i in range(first, last):
            self._decode_one(i, largest)

    def _crop_into(self, out: Any, first: int, last: int) -> None:
        images = self.pixels[self.starts[first] :], self.starts[first:] - self.starts[first]
        uniforms, sides = self.draws.uniforms[first:], self.sides[first:]
        crop_images(*images, sides, uniforms, self.settings, out, last - first)

    def _crop(self, first: int, last: int) -> None:
        self._crop_into(np.empty_like(self.crops[:, first:last]), first, last)

    def _colour(self, first: int, last: int) -> None:
        part = slice(first, last)
        for view, row in enumerate(self.settings):
            parameters = np.ascontiguousarray(self.draws.parameters[part, view])
            render_crops(self.crops[view, part], parameters, row, True, self.views[view, part])


def create_ours_parts(work: Workload) -> Pipeline:
    return Parts(work)
