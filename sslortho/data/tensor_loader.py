"""Loaders for images of one size that lie in memory, on the device that trains."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslortho.augment import EvaluationRenderer, ViewRenderer
from sslortho.augment.cpu.view_kernel import render_views
from sslortho.augment.numba_kernel import kernel
from sslortho.augment.renderer import as_images
from sslortho.data.batches import Batch, EpochOrder, evaluation_batches
from sslortho.data.prefetch import Job, run_ahead

LEAST = 16
"""Least samples for which starting a thread pays."""

DRAWN_AHEAD = 2
"""Batches whose numbers are drawn before a GPU needs them."""


@kernel
def _render_part(images, indices, uniforms, parameters, settings, channels_last, out, first, last):
    for i in range(first, last):
        image = images[indices[i]]
        render_views(image, uniforms[i], parameters[i], settings, channels_last, out, i)


def render_on_cpu(
    images: NDArray[np.uint8],
    indices: NDArray[np.int64],
    renderer: ViewRenderer,
    epoch: int,
) -> tuple[Tensor, ...]:
    """Render all views of some samples with the CPU kernels, on torch's number of threads.

    Args:
        images: (n, height, width, 3).
        indices: (batch,), the samples.
        renderer: makes the views.
        epoch: of the draws.

    Returns:
        float32 (batch, 3, size, size) for each view.
    """
    draws, last = renderer.draw(indices, epoch), renderer.channels_last
    threads = max(1, min(torch.get_num_threads(), len(indices) // LEAST))
    bounds = [len(indices) * part // threads for part in range(threads + 1)]
    views = []
    with ThreadPoolExecutor(threads) as pool:
        for view, size in enumerate(renderer.crop_sizes):
            chosen = slice(view, view + 1)
            out = torch.empty(1, len(indices), 3 * size * size)
            uniforms = np.ascontiguousarray(draws.uniforms[:, chosen])
            parameters = np.ascontiguousarray(draws.parameters[:, chosen])
            settings = renderer.settings[chosen]
            parts = [
                pool.submit(
                    _render_part, images, indices, uniforms, parameters, settings, last,
                    out.numpy(), bounds[part], bounds[part + 1],
                )
                for part in range(threads)
            ]  # fmt: skip
            for part in parts:
                part.result()
            views.append(as_images(out[0], size, size, last))
    return tuple(views)


class TensorLoader:
    """Random views of images in memory; the whole data set is kept on the device.

    Crop, flip and photometry are done there: on a CPU by the fused kernels, on a GPU by batched
    products and one compiled graph, whose numbers a thread draws ahead. Every batch is full, see
    `EpochOrder`.

    Args:
        images: uint8 (n, 3, height, width).
        labels: int64 (n,).
        renderer: makes the views.
        order: samples of each batch.
        device: where the images are kept and the views are rendered.

    Raises:
        ValueError: the images are too small for a view.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        renderer: ViewRenderer,
        order: EpochOrder,
        device: torch.device,
    ) -> None:
        renderer.check_size(*images.shape[2:])
        self.images = images.to(device)
        if device.type == "cpu":  # the kernels read whole pixels
            self.images = self.images.contiguous(memory_format=torch.channels_last)
        self.labels = labels.to(device)
        self.renderer = renderer
        self.order = order
        self.device = device
        self.epoch = 0
        self.start_step = 0

    @property
    def kernels(self) -> tuple[Any, ...]:
        """Compiled kernels that make the batches."""
        return (_render_part,) if self.device.type == "cpu" else ()

    def __len__(self) -> int:
        return len(self.order)

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Let the next iteration be of this epoch, from batch `start_step` on."""
        self.epoch, self.start_step = epoch, start_step

    def __iter__(self) -> Iterator[Batch]:
        # set_epoch is about the next iteration, not this one
        steps = self.order.steps(self.epoch, self.start_step)
        if self.device.type == "cpu":
            return self._rendered_by_kernels(steps, self.epoch)
        return run_ahead(self._drawn_ahead(steps, self.epoch), threads=1, ahead=DRAWN_AHEAD)

    def _rendered_by_kernels(
        self, steps: Iterator[NDArray[np.int64]], epoch: int
    ) -> Iterator[Batch]:
        for indices in steps:
            pixels = self.images.permute(0, 2, 3, 1).numpy()
            views = render_on_cpu(pixels, indices, self.renderer, epoch)
            yield Batch(views, self.labels[torch.from_numpy(indices)])

    def _drawn_ahead(
        self, steps: Iterator[NDArray[np.int64]], epoch: int
    ) -> Generator[Job[Batch], None, None]:
        """Batches whose numbers a thread draws, into pinned memory; the caller's thread renders them.

        It must be one thread that gives the GPU its work: the products' precision is the process's.
        """
        for indices in steps:
            yield self._job(indices, epoch)

    def _job(self, indices: NDArray[np.int64], epoch: int) -> Job[Batch]:
        drawn: list[Tensor] = []

        def draw(first: int, last: int) -> None:
            table = self.renderer.draw_table(indices, epoch, *self.images.shape[2:])
            numbers = [torch.from_numpy(indices), torch.from_numpy(table)]
            pinned = self.device.type == "cuda"
            drawn.extend(part.pin_memory() if pinned else part for part in numbers)

        def render() -> Batch:
            index, table = (part.to(self.device, non_blocking=True) for part in drawn)
            return Batch(self.renderer.render_table(self.images[index], table), self.labels[index])

        return Job(1, draw, render)


class TensorEvaluationLoader:
    """The evaluation view of this rank's batches of images in memory, in order.

    Nothing is dropped: the last batch of the data may be smaller. A rank may get no batch.

    Args:
        images: uint8 (n, 3, height, width), those of all ranks.
        labels: int64 (n,).
        renderer: makes the view.
        batch_size: images of a batch.
        device: where this rank's images are kept and the view is rendered.
        rank, world_size: see `evaluation_batches`.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        renderer: EvaluationRenderer,
        batch_size: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        batches = evaluation_batches(len(images), batch_size, rank, world_size)
        share = slice(batches[0].start, batches[-1].stop) if batches else slice(0, 0)
        self.images = images[share].to(device)
        self.labels = labels[share].to(device)
        self.renderer = renderer
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.images), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield Batch((self.renderer.render(self.images[part]),), self.labels[part])
