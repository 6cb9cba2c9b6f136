"""Loader of views that a user's callables make, in worker processes of torch's DataLoader.

Threads would not do: callables draw from the global generators, which a process has once.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sslortho.augment.own_views import OwnViewRenderer
from sslortho.data.batches import Batch, EpochOrder
from sslortho.data.item_workers import METHOD, outlive_signals
from sslortho.data.pixel_source import DecodedImages

Key = tuple[int, int]
"""Epoch, and index of a sample."""


class _Views(Dataset[list[Tensor]]):
    """The views of a sample in an epoch."""

    def __init__(self, images: DecodedImages, renderer: OwnViewRenderer) -> None:
        self.images, self.renderer = images, renderer

    def __getitem__(self, key: Key) -> list[Tensor] | str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The views; the fault, as text, of an image that cannot be read.

        As an error it would come out of torch's worker with a traceback in its message.
        """
        epoch, index = key
        try:
            pixels = self.images.open(index)
        except ValueError as error:
            return str(error)
        return self.renderer.render(pixels, index, epoch)


def _stack(samples: list[list[Tensor] | str]) -> list[Tensor] | str:
    """Samples of views to views of samples, each (batch, 3, size, size); or the first fault."""
    for sample in samples:
        if isinstance(sample, str):
            return sample
    return [torch.stack(views) for views in zip(*samples, strict=True)]


class OwnViewLoader:
    """Random views of a user's callables; any number of views, of any sizes.

    Every batch is full: the remainder of an epoch is dropped, see `EpochOrder`. The views do not depend
    on the number of workers.

    Args:
        images: labelled images, opened one by one.
        renderer: makes the views.
        order: samples of each batch.
        device: where views are delivered.
        workers: processes that decode and render; 0 for none.
        channels_last: memory format of the views.
    """

    def __init__(
        self,
        images: DecodedImages,
        renderer: OwnViewRenderer,
        order: EpochOrder,
        device: torch.device,
        workers: int,
        channels_last: bool = False,
    ) -> None:
        self.images, self.renderer, self.order = images, renderer, order
        self.device, self.workers = device, workers
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.epoch = 0
        self.start_step = 0

    def __len__(self) -> int:
        return len(self.order)

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Let the next iteration be of this epoch, from batch `start_step` on."""
        self.epoch, self.start_step = epoch, start_step

    def __iter__(self) -> Iterator[Batch]:
        """Batches. Raises ValueError, naming the image, for one that cannot be read."""
        epoch = self.epoch  # read once: set_epoch is about the next iteration
        steps = list(self.order.steps(epoch, self.start_step))
        keys = [[(epoch, int(index)) for index in indices] for indices in steps]
        loader = DataLoader(
            _Views(self.images, self.renderer),
            batch_sampler=keys,  # pyright: ignore[reportArgumentType]
            num_workers=self.workers,
            collate_fn=_stack,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=outlive_signals,
            # by fork views may be closures
            multiprocessing_context=METHOD if self.workers else None,
            generator=torch.Generator(),  # else it draws its seed from the global one
        )
        for indices, views in zip(steps, loader, strict=True):
            if isinstance(views, str):
                raise ValueError(views)
            yield self._finish(indices, views)

    def _finish(self, indices: np.ndarray, views: list[Tensor]) -> Batch:
        placed = tuple(
            view.to(self.device, non_blocking=True).contiguous(memory_format=self.format)
            for view in views
        )
        labels = self.images.labels[torch.from_numpy(indices)]
        return Batch(placed, labels.to(self.device, non_blocking=True))
