"""Loaders for folders of big images: decode and crop in workers, photometry on the device."""

import os
import signal
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sslortho.augment import EvaluationRenderer, EvaluationSpec, ViewRenderer
from sslortho.data.batches import Batch, EpochOrder, rank_share
from sslortho.data.image_folder import read_image
from sslortho.data.image_sets import ImageFiles


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


class _Crops(Dataset[tuple[Tensor, int, int]]):
    """(epoch, index) to uint8 crops (views, 3, size, size), index and label: one decode an image."""

    def __init__(self, data: ImageFiles, renderer: ViewRenderer) -> None:
        self.data = data
        self.renderer = renderer

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int, int]:
        epoch, index = key
        image = read_image(self.data.paths[index])
        height, width = np.array([image.height]), np.array([image.width])
        crops = []
        for view, spec in enumerate(self.renderer.specs):
            draw = self.renderer.draw_crops(view, np.array([index]), epoch, height, width)
            top, left = int(draw.top[0]), int(draw.left[0])
            box = (left, top, left + int(draw.width[0]), top + int(draw.height[0]))
            # cut first: PIL's resize with a box looks at pixels outside of it
            crop = image.crop(box).resize(
                (spec.crop_size, spec.crop_size), Image.Resampling.BICUBIC
            )
            if draw.flip[0]:
                crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            crops.append(_to_tensor(crop))
        return torch.stack(crops), index, int(self.data.labels[index])


def _leave_signals_to_the_main_process(worker: int) -> None:
    # Ctrl-C and launchers signal the whole process group; a worker that dies of it would take the
    # main process along before it has saved.
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


class _EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index); the epoch travels with the index, so workers need no state."""

    def __init__(self, order: EpochOrder) -> None:
        self.order = order
        self.epoch = 0
        self.start_step = 0

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch  # read once: set_epoch is about the next iteration
        for indices in self.order.steps(epoch, self.start_step):
            yield [(epoch, index) for index in indices.tolist()]


class FileLoader:
    """Random views of image files. All views must share one crop size.

    Args:
        data: paths and labels.
        renderer: draws the boxes in the workers and renders the photometry on the device.
        order: which samples when.
        device: where photometry runs and views are delivered.
        workers: processes that decode and crop; 0 for none.
    """

    def __init__(
        self,
        data: ImageFiles,
        renderer: ViewRenderer,
        order: EpochOrder,
        device: torch.device,
        workers: int,
    ) -> None:
        sizes = {spec.crop_size for spec in renderer.specs}
        if len(sizes) > 1:
            raise ValueError(
                f"all views of image files need one crop_size, got {sorted(sizes)}: they travel "
                "from the workers as one tensor"
            )
        self.renderer = renderer
        self.device = device
        self.sampler = _EpochSampler(order)
        self.loader = DataLoader(
            _Crops(data, renderer),
            batch_sampler=self.sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_leave_signals_to_the_main_process,
            pin_memory=device.type == "cuda",
        )

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """The next iteration is of this epoch, from this batch on."""
        self.sampler.epoch, self.sampler.start_step = epoch, start_step

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.sampler.epoch
        for crops, index, labels in self.loader:
            crops = crops.to(self.device, non_blocking=True)
            indices = index.numpy()
            views = tuple(
                self.renderer.finish(view, crops[:, view], indices, epoch)
                for view in range(crops.shape[1])
            )
            yield Batch(views, labels.to(self.device, non_blocking=True))


def _centre_crop(image: Image.Image, spec: EvaluationSpec) -> Image.Image:
    # torchvision's Resize and CenterCrop, whose rounding this repeats
    short = min(image.size)
    width, height = (int(spec.resize * side / short) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - spec.crop_size) / 2), round((height - spec.crop_size) / 2)
    return image.crop((left, top, left + spec.crop_size, top + spec.crop_size))


class _CentreCrops(Dataset[tuple[Tensor, int]]):
    def __init__(self, data: ImageFiles, spec: EvaluationSpec, share: range) -> None:
        self.data, self.spec, self.share = data, spec, share

    def __len__(self) -> int:
        return len(self.share)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        index = self.share[position]
        image = _centre_crop(read_image(self.data.paths[index]), self.spec)
        return _to_tensor(image), int(self.data.labels[index])


class FileEvaluationLoader:
    """The evaluation view of this rank's share of image files, in order."""

    def __init__(
        self,
        data: ImageFiles,
        renderer: EvaluationRenderer,
        batch_size: int,
        device: torch.device,
        workers: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.renderer = renderer
        self.device = device
        share = rank_share(len(data), rank, world_size)
        self.loader = DataLoader(
            _CentreCrops(data, renderer.spec, share),
            batch_size=batch_size,
            num_workers=workers,
            worker_init_fn=_leave_signals_to_the_main_process,
            pin_memory=device.type == "cuda",
        )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for crops, labels in self.loader:
            views = self.renderer.finish(crops.to(self.device, non_blocking=True))
            yield Batch((views,), labels.to(self.device, non_blocking=True))
