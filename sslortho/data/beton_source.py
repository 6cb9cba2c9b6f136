"""A .beton file as a source for `ViewLoader`. Imported through `require_ffcv`, since FFCV is an extra."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from ffcv.memory_managers import OSCacheManager, ProcessCacheManager
from ffcv.pipeline.compiler import Compiler
from ffcv.reader import Reader
from ffcv.traversal_order.base import TraversalOrder
from numpy.typing import NDArray
from torch import Tensor

from sslortho.augment.renderer import Draws, Renderer
from sslortho.data.batches import Batch, EpochOrder
from sslortho.data.ffcv_operation import MultiCropDecoder, MultiViewDecoder
from sslortho.data.image_sets import BetonImages
from sslortho.data.prefetch import Job
from sslortho.data.view_loader import Indices

Cache = Literal["os", "process"]


class ShardedOrder(TraversalOrder):
    """`EpochOrder` as a traversal order of FFCV: this rank's samples of an epoch.

    For `ffcv.Loader(order=ShardedOrder, order_kwargs={"order": ...}, batch_size=...)` with the rank's
    share of the batch: nothing is lost among ranks but the remainder of a batch, nothing doubled.
    FFCV's distributed orders pad the ranks' shares to equal length with samples that occur twice.
    """

    def __init__(self, loader: Any, order: EpochOrder) -> None:
        super().__init__(loader)
        self.order = order

    def sample_order(self, epoch: int) -> NDArray[np.int64]:
        """Positions among the loader's `indices`, batch after batch."""
        return np.asarray(self.indices)[np.concatenate(list(self.order.steps(epoch)))]


class _BetonReading:
    def __init__(self, source: "BetonSource", context: Any, renderer: Renderer) -> None:
        self.source = source
        self.context = context
        self.render_code, self.crop_code = source.compile(renderer)

    def prepare(self, step: int, previous: Job[Batch] | None) -> None:
        """With a process cache: fetch the pages of this batch, where those of earlier ones were."""
        if self.source.cache == "process" and previous is not None:
            previous.wait()
        self.context.start_batch(step)

    def _samples(self, indices: Indices, first: int, last: int) -> NDArray[np.uint64]:
        return self.source.places[indices[first:last]]

    def _check(self, samples: NDArray[np.uint64], broken: NDArray[np.uint8]) -> None:
        if broken.any():
            raise ValueError(
                f"image {samples[broken.argmax()]} of {self.source.data.path} cannot be decoded; "
                "write the file again with scripts/write_beton.py"
            )

    def crop(
        self, indices: Indices, draws: Draws, out: NDArray[np.uint8], first: int, last: int
    ) -> None:
        samples, broken = self._samples(indices, first, last), np.zeros(last - first, np.uint8)
        memory = (out[first:last], draws.uniforms[first:last], broken)
        self.crop_code(samples, memory, self.source.metadata, self.context.state)
        self._check(samples, broken)

    def render(
        self, indices: Indices, draws: Draws, out: NDArray[np.float32], first: int, last: int
    ) -> None:
        samples, broken = self._samples(indices, first, last), np.zeros(len(indices), np.uint8)
        memory = (out, draws.uniforms, draws.parameters, broken, first)
        self.render_code(samples, memory, self.source.metadata, self.context.state)
        self._check(samples, broken[first:last])


class BetonSource:
    """Images of a beton, read and decoded by FFCV.

    Args:
        data: the file, checked, and which of its samples.
        cache: "os" maps the file into memory, which is fastest where it fits into it and shares it
            among the ranks of a machine. "process" reads whole pages ahead, for data larger than
            memory or on slow disks; give it an order of `PageOrder`.
    """

    def __init__(self, data: BetonImages, cache: Cache = "os") -> None:
        self.data = data
        self.cache = cache
        reader = Reader(str(data.path))
        managers = {"os": OSCacheManager, "process": ProcessCacheManager}
        self.manager = managers[cache](reader)
        field = list(reader.handlers).index("image")
        self.metadata = reader.metadata[f"f{field}"]
        self.field = reader.handlers["image"]
        self.places = data.places.astype(np.uint64)
        self.read = self.manager.compile_reader()
        self.compiled: dict[tuple[bytes, bool], tuple[Any, Any]] = {}

    @property
    def labels(self) -> Tensor:
        """int64 (n,)."""
        return self.data.labels

    def compile(self, renderer: Renderer) -> tuple[Any, Any]:
        """Functions for finished views and for crops; each is compiled when it is first called."""
        key = (renderer.settings.tobytes(), renderer.channels_last)
        if key not in self.compiled:
            self.compiled[key] = self._compile(renderer)
        return self.compiled[key]

    def _compile(self, renderer: Renderer) -> tuple[Any, Any]:
        operations = (
            MultiViewDecoder(renderer.settings, renderer.channels_last),
            MultiCropDecoder(renderer.settings),
        )
        for operation in operations:
            operation.accept_field(self.field)
            operation.accept_globals(self.metadata, self.read)
        render, crop = (Compiler.compile(operation.generate_code()) for operation in operations)
        return render, crop

    @contextlib.contextmanager
    def open(self, batches: Sequence[Indices], renderer: Renderer) -> Iterator[_BetonReading]:
        """Schedule the pages of these batches."""
        context = self.manager.schedule_epoch([self.places[batch] for batch in batches])
        context.__enter__()
        try:
            yield _BetonReading(self, context, renderer)
        finally:
            context.__exit__(None, None, None)
