"""Betons through FFCV: a source for `ViewLoader`, and an order for FFCV's own loader.

Import it with `require_ffcv`. `data.beton.source` reads the same files without FFCV, bit for bit the same.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ffcv.memory_managers import OSCacheManager, ProcessCacheManager
from ffcv.pipeline.compiler import Compiler
from ffcv.reader import Reader
from ffcv.traversal_order.base import TraversalOrder
from numpy.typing import NDArray
from torch import Tensor

from sslortho.augment.renderer import Draws, Renderer
from sslortho.data.batches import Batch, EpochOrder
from sslortho.data.beton.page_cache import PageCache
from sslortho.data.beton.source import BetonSamples, check_unchanged, file_state
from sslortho.data.beton.stored_jpeg import BrokenSampleError
from sslortho.data.ffcv.decoders import MultiCropDecoder, MultiViewDecoder
from sslortho.data.image_sets import Cache
from sslortho.data.prefetch import Job
from sslortho.data.view_loader import Indices


class ShardedOrder(TraversalOrder):
    """`EpochOrder` as a traversal order for FFCV's own loader: this rank's samples of an epoch.

    Give `ffcv.Loader(order=ShardedOrder(order), batch_size=...)` the rank's share of the batch. Then no
    sample occurs twice over all ranks, and only the remainder of a batch is dropped. FFCV's own
    distributed orders pad the ranks' shares to equal length with samples that occur twice.
    """

    def __init__(self, order: EpochOrder) -> None:
        self.order = order

    def __call__(self, loader: Any) -> "ShardedOrder":
        """Bind to a loader: FFCV 1.0.2 takes an instance and calls it."""
        super().__init__(loader)
        return self

    def sample_order(self, epoch: int) -> NDArray[np.int64]:
        """Indices of the samples in the loader's file, batch after batch."""
        return np.asarray(self.indices)[np.concatenate(list(self.order.steps(epoch)))]


class _BetonReading:
    def __init__(self, source: "BetonSource", context: Any, renderer: Renderer) -> None:
        self.source = source
        self.context = context
        self.state = source.state_of(context)
        self.settings = renderer.settings
        self.render_code, self.crop_code = source.compile(renderer)

    def prepare(self, step: int, previous: Job[Batch] | None) -> None:
        """For a process cache: fetch the pages of this batch into the memory of earlier ones."""
        if self.source.cache == "process" and previous is not None:
            previous.wait()
        self.context.start_batch(step)

    def _run(
        self, code: Any, out: NDArray[Any], indices: Indices, draws: Draws, first: int, last: int
    ) -> None:
        source = self.source
        samples, broken = source.places[indices[first:last]], np.zeros(len(indices), np.uint8)
        memory = (
            out, draws.uniforms, draws.parameters, broken, self.settings, first, source.largest,
        )  # fmt: skip
        code(samples, memory, source.metadata, self.state)
        if broken.any():
            place = int(samples[broken[first:last].argmax()])
            raise BrokenSampleError(source.data.path, place, "its bytes are no JPEG of its size")

    def crop(
        self, indices: Indices, draws: Draws, out: NDArray[np.uint8], first: int, last: int
    ) -> None:
        self._run(self.crop_code, out, indices, draws, first, last)

    def render(
        self, indices: Indices, draws: Draws, out: NDArray[np.float32], first: int, last: int
    ) -> None:
        self._run(self.render_code, out, indices, draws, first, last)


_compiled: dict[tuple[Any, ...], tuple[Any, Any]] = {}


class BetonSource:
    """Images of a beton, read and decoded by FFCV.

    Args:
        data: the file, checked, and the samples to read.
        cache: "os" maps the file into memory: fastest if it fits, and shared among the ranks of a
            machine. "process" reads whole pages ahead, for data larger than memory and for slow
            disks; it needs an order that is a `PageOrder`.
    """

    def __init__(self, data: BetonSamples, cache: Cache = "os") -> None:
        self.data = data
        self.cache = cache
        self.file_state = file_state(data.path)  # before it is read: what changes later is noticed
        reader = Reader(str(data.path))
        managers = {"os": OSCacheManager, "process": ProcessCacheManager}
        self.manager = managers[cache](reader)
        # FFCV looks bytes up by where they begin, and finds the empty ones of other fields too
        table = np.sort(reader.alloc_table[reader.alloc_table["size"] > 0], order="ptr")
        self.manager.ptrs, self.manager.sizes = table["ptr"].copy(), table["size"].copy()
        name = data.image_field
        self.metadata = reader.metadata[f"f{list(reader.handlers).index(name)}"]
        self.field = reader.handlers[name]
        self.places = data.places.astype(np.uint64)
        sizes = self.metadata["height"].astype(np.int64) * self.metadata["width"]
        self.largest = 3 * int(sizes.max())

    @property
    def labels(self) -> Tensor:
        """int64 (n,)."""
        return self.data.labels

    def compile(self, renderer: Renderer) -> tuple[Any, Any]:
        """Functions for finished views and for crops; each is compiled when it is first called."""
        # the compiled reader of FFCV's cache has the page size in it
        key = (self.cache, self.manager.reader.page_size, renderer.channels_last)
        if key not in _compiled:
            read = self.manager.compile_reader()
            operations = (
                MultiViewDecoder(renderer.crop_sizes, renderer.channels_last),
                MultiCropDecoder(renderer.crop_sizes),
            )
            for operation in operations:
                operation.accept_field(self.field)
                operation.accept_globals(self.metadata, read)
            render, crop = (Compiler.compile(each.generate_code()) for each in operations)
            _compiled[key] = render, crop
        return _compiled[key]

    @contextlib.contextmanager
    def open(self, batches: Sequence[Indices], renderer: Renderer) -> Iterator[_BetonReading]:
        """A reading of these batches, in this order.

        Raises OSError if the file has changed since it was opened.
        """
        check_unchanged(self.data.path, self.file_state)
        with self._context(batches) as context:
            yield _BetonReading(self, context, renderer)

    def _context(self, batches: Sequence[Indices]) -> Any:
        if self.cache == "os":
            return contextlib.nullcontext(self._map_memory())
        pages = [self.data.pages[batch] for batch in batches]
        return PageCache(self.data.path, int(self.manager.reader.page_size), pages)

    def state_of(self, context: Any) -> Any:
        """Arguments of FFCV's compiled reader of this cache."""
        if self.cache == "os":
            return context.state
        return context.memory, self.manager.ptrs, self.manager.sizes, context.slot_of_page

    def _map_memory(self) -> Any:
        context = self.manager.schedule_epoch([])
        context.__enter__()  # FFCV keeps the map for the next time
        return context
