"""The pipeline of kornia, as its users write it.

kornia is imported where it is used: it may be missing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, Dataset, RandomSampler

from sslortho.augment import ViewSpec

from .libraries import ImageList, create_data_loader, create_image_list, list_jitter
from .workload import Pipeline, Workload


def create_kornia_crop(spec: ViewSpec, mode: str) -> nn.Module:
    """kornia's random resized crop: "slice" crops image by image, "resample" a batch of one size."""
    from kornia.augmentation import RandomResizedCrop

    size = (spec.crop_size, spec.crop_size)
    return RandomResizedCrop(
        size, spec.crop_scale, spec.crop_ratio, "bicubic", align_corners=False, cropping_mode=mode
    )


def create_kornia_colours(spec: ViewSpec) -> list[nn.Module]:
    """kornia's augmentations of float batches: all steps but crop and flip."""
    import kornia.augmentation as kornia

    steps: list[nn.Module] = [
        kornia.ColorJitter(*list_jitter(spec), p=spec.jitter_p),
        kornia.RandomGrayscale(p=spec.grayscale_p),
    ]
    if spec.blur_p:
        taps = (spec.blur_taps, spec.blur_taps)
        steps.append(kornia.RandomGaussianBlur(taps, spec.blur_sigma, p=spec.blur_p))
    if spec.solarise_p:
        threshold = (spec.solarise_threshold, spec.solarise_threshold)
        steps.append(kornia.RandomSolarize(threshold, (0.0, 0.0), p=spec.solarise_p))
    return [*steps, kornia.Normalize(torch.tensor(spec.mean), torch.tensor(spec.std))]


def create_kornia_transform(spec: ViewSpec) -> nn.Sequential:
    """kornia's augmentations of float batches: all steps but the crop."""
    from kornia.augmentation import RandomHorizontalFlip

    return nn.Sequential(RandomHorizontalFlip(p=spec.flip_p), *create_kornia_colours(spec))


class KorniaBatches(Dataset):
    """A data set of batches of two views: a list of indices gives (views, labels).

    Images of different sizes are cropped one by one; the other steps take a batch.
    """

    def __init__(self, images: ImageList, specs: Sequence[ViewSpec], one_size: bool) -> None:
        self.images = images
        self.one_size = one_size
        mode = "resample" if one_size else "slice"
        self.crops = [create_kornia_crop(spec, mode) for spec in specs]
        self.transforms = [create_kornia_transform(spec) for spec in specs]

    def __len__(self) -> int:
        return len(self.images)

    @torch.no_grad()
    def __getitem__(self, batch: list[int]) -> tuple[list[Tensor], Tensor]:
        images = [self.images[i][0][None] / 255 for i in batch]
        if self.one_size:
            images = [torch.cat(images)]
        views = [
            transform(torch.cat([crop(image) for image in images]))
            for crop, transform in zip(self.crops, self.transforms, strict=True)
        ]
        return views, torch.zeros(len(batch), dtype=torch.int64)


def _keep(image: Tensor) -> Tensor:
    return image


def create_kornia(work: Workload) -> Pipeline:
    # in the loader's processes: in the main one, kornia's CPU threads would compete with them
    images = create_image_list(work, _keep, pil=False)
    data = KorniaBatches(images, work.specs, one_size=work.array is not None)
    batches = BatchSampler(RandomSampler(images), work.batch_size, drop_last=True)
    return create_data_loader(work, data, sampler=batches, batch_size=None)
