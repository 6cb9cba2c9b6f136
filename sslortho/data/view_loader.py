"""Loaders for images that are decoded one by one, from any source.

Threads decode each image once a step and cut all views out of it, without holding the GIL. On a CPU
they also do the photometry and write finished views. For a GPU they write crops, and the GPU does the
photometry.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslortho.augment.cpu.view_kernel import crop_views, render_views
from sslortho.augment.renderer import Draws, Renderer, ViewRenderer, as_images
from sslortho.augment.send import send
from sslortho.data.batches import Batch, EpochOrder, evaluation_batches
from sslortho.data.prefetch import Buffers, Job, run_ahead

Indices = NDArray[np.int64]


class Reading(Protocol):
    """A source of images, open while a sequence of batches is read from it."""

    def prepare(self, step: int, previous: Job[Batch] | None) -> None:
        """Prepare for batch `step`; `previous` is the batch before, perhaps still being made."""
        ...

    def crop(
        self, indices: Indices, draws: Draws, out: NDArray[np.uint8], first: int, last: int
    ) -> None:
        """Write the crops of samples `first` to `last` - 1.

        Args:
            indices: (batch,), samples of the batch.
            draws: of the batch.
            out: (batch, sum of 3 * size * size over the views); rows first to last - 1 are filled.
            first, last: places in the batch.

        Raises ValueError, naming the image, if one cannot be decoded.
        """
        ...

    def render(
        self, indices: Indices, draws: Draws, out: NDArray[np.float32], first: int, last: int
    ) -> None:
        """Write the finished views of samples `first` to `last` - 1.

        Args:
            indices, draws, first, last: as for `crop`, also for what raises.
            out: (sum of batch * 3 * size * size over the views,): for each view (batch, 3 * size *
                size), one after the other; of each the rows first to last - 1 are filled.
        """
        ...


class Source(Protocol):
    """Images that can be decoded one by one."""

    @property
    def labels(self) -> Tensor:
        """int64 (n,)."""
        ...

    def open(
        self, batches: Sequence[Indices], renderer: Renderer
    ) -> AbstractContextManager[Reading]:
        """A reading of these batches, in this order."""
        ...


class _Loader:
    """Batches of given samples, made ahead by threads."""

    def __init__(
        self, source: Source, renderer: Renderer, device: torch.device, workers: int
    ) -> None:
        self.source = source
        self.renderer = renderer
        self.lengths = [3 * size * size for size in renderer.crop_sizes]
        self.device = device
        self.workers = workers
        self.on_cpu = device.type == "cpu"

    def _run(self, batches: Sequence[Indices], epoch: int) -> Iterator[Batch]:
        if not batches:  # a rank's share of a small data set may be empty
            return iter(())
        return run_ahead(self._jobs(batches, epoch), self.workers)

    def _jobs(self, batches: Sequence[Indices], epoch: int) -> Generator[Job[Batch], None, None]:
        job: Job[Batch] | None = None
        buffers = Buffers(pinned=self.device.type == "cuda")
        with self.source.open(batches, self.renderer) as reading:
            for step, indices in enumerate(batches):
                reading.prepare(step, job)
                job = self._job(reading, buffers, indices, epoch)
                yield job

    def _job(self, reading: Reading, buffers: Buffers, indices: Indices, epoch: int) -> Job[Batch]:
        draws = self.renderer.draw(indices, epoch)
        batch, values = len(indices), sum(self.lengths)
        if self.on_cpu:
            out = buffers.take((batch * values,), torch.float32)
            fill = partial(reading.render, indices, draws, out.numpy())
        else:
            out = buffers.take((batch, values), torch.uint8)
            fill = partial(reading.crop, indices, draws, out.numpy())
        return Job(batch, fill, partial(self._finish, out, indices, draws))

    def _finish(self, out: Tensor, indices: Indices, draws: Draws) -> Batch:
        sizes, last = self.renderer.crop_sizes, self.renderer.channels_last
        if self.on_cpu:
            parts = out.split([len(indices) * length for length in self.lengths])
            views = [as_images(part, s, s, last) for part, s in zip(parts, sizes, strict=True)]
        else:
            parts = out.to(self.device, non_blocking=True).split(self.lengths, dim=1)
            views = [
                self.renderer.apply_photometry(
                    v, as_images(part, sizes[v], sizes[v], True), draws.parameters[:, v]
                )
                for v, part in enumerate(parts)
            ]
        labels = self.source.labels[torch.from_numpy(indices)]
        return Batch(tuple(views), send(labels, self.device))


class ViewLoader(_Loader):
    """Random views of a source's images; any number of views, of any sizes.

    Every batch is full: the remainder of an epoch is dropped, see `EpochOrder`.

    Args:
        source: images and labels.
        renderer: makes the views.
        order: samples of each batch.
        device: where views are delivered.
        workers: threads that decode and render; 0 for none.
    """

    def __init__(
        self,
        source: Source,
        renderer: ViewRenderer,
        order: EpochOrder,
        device: torch.device,
        workers: int,
    ) -> None:
        super().__init__(source, renderer, device, workers)
        self.renderer: ViewRenderer = renderer
        self.order = order
        self.epoch = 0
        self.start_step = 0

    @property
    def kernels(self) -> tuple[Any, ...]:
        """Compiled kernels that make the batches."""
        return (render_views,) if self.on_cpu else (crop_views,)

    def __len__(self) -> int:
        return len(self.order)

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Let the next iteration be of this epoch, from batch `start_step` on."""
        self.epoch, self.start_step = epoch, start_step

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch  # read once: set_epoch is about the next iteration
        return self._run(list(self.order.steps(epoch, self.start_step)), epoch)


class EvaluationViewLoader(_Loader):
    """The evaluation view of this rank's batches of a source's images, in order.

    Nothing is dropped: the last batch of the data may be smaller. A rank may get no batch.

    Args:
        source: images and labels, those of all ranks.
        renderer: makes the view.
        batch_size: images of a batch.
        device: where views are delivered.
        workers: threads that decode and render; 0 for none.
        rank, world_size: see `evaluation_batches`.
    """

    def __init__(
        self,
        source: Source,
        renderer: Renderer,
        batch_size: int,
        device: torch.device,
        workers: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(source, renderer, device, workers)
        parts = evaluation_batches(len(source.labels), batch_size, rank, world_size)
        self.batches = [np.arange(part.start, part.stop, dtype=np.int64) for part in parts]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return self._run(self.batches, epoch=0)
