"""Loaders for images that lie in memory, on the device that trains."""

from collections.abc import Iterator

import numpy as np
import torch

from sslortho.augment import EvaluationRenderer, ViewRenderer
from sslortho.data.batches import Batch, EpochOrder, rank_share
from sslortho.data.image_sets import ImageArray


class TensorLoader:
    """Random views of in-memory images: the whole data set lives on the device.

    Args:
        data: the images.
        renderer: makes the views.
        order: which samples when.
        device: where the images live and views are rendered.
    """

    def __init__(
        self, data: ImageArray, renderer: ViewRenderer, order: EpochOrder, device: torch.device
    ) -> None:
        self.images = data.images.to(device)
        self.labels = data.labels.to(device)
        self.renderer = renderer
        self.order = order
        self.device = device
        self.epoch = 0
        self.start_step = 0

    def __len__(self) -> int:
        return len(self.order)

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """The next iteration is of this epoch, from this batch on."""
        self.epoch, self.start_step = epoch, start_step

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch  # set_epoch is about the next iteration, not this one
        for indices in self.order.steps(epoch, self.start_step):
            index = torch.from_numpy(indices).to(self.device, non_blocking=True)
            views = self.renderer.render(self.images[index], indices, epoch)
            yield Batch(views, self.labels[index])


class TensorEvaluationLoader:
    """The evaluation view of this rank's share of in-memory images, in order."""

    def __init__(
        self,
        data: ImageArray,
        renderer: EvaluationRenderer,
        batch_size: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        share = np.array(rank_share(len(data), rank, world_size), dtype=np.int64)
        share = torch.from_numpy(share)
        self.images = data.images[share].to(device)
        self.labels = data.labels[share].to(device)
        self.renderer = renderer
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.images), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield Batch((self.renderer.render(self.images[part]),), self.labels[part])
