"""The pipelines of other libraries, each as its users write it.

What is not torchvision's is imported where it is used: nothing else needs it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler
from torchvision import transforms
from torchvision.transforms import InterpolationMode, v2

from sslortho.augment import ViewSpec
from sslortho.data import require_ffcv

from .workload import FAST_PASSES, Batches, Pipeline, Workload

BICUBIC = InterpolationMode.BICUBIC

Transform = Callable[[Any], Any]


def open_image(path: str) -> Image.Image:
    """As torchvision's loader of image folders."""
    with Path(path).open("rb") as file:
        return Image.open(file).convert("RGB")


def decode_tensor(path: str) -> Tensor:
    """uint8 (3, height, width)."""
    from torchvision.io import ImageReadMode, decode_image, read_file  # which a later one removes

    return decode_image(read_file(path), ImageReadMode.RGB)


@dataclass(frozen=True)
class ArrayReader:
    """Images in memory, uint8 (n, 3, height, width), by number; as PIL's if `pil`."""

    images: Tensor
    pil: bool

    def __call__(self, place: int) -> Any:
        image = self.images[place]
        return Image.fromarray(image.permute(1, 2, 0).numpy()) if self.pil else image


@dataclass(frozen=True)
class PairOfViews:
    """Both views of an image."""

    first: Transform
    second: Transform

    def __call__(self, image: Any) -> list[Tensor]:
        return [self.first(image), self.second(image)]


class ImageList(Dataset):
    """(views, label) of each item that `read` understands; a data set as torchvision's are."""

    def __init__(self, items: Sequence[Any], read: Transform, transform: Transform) -> None:
        self.items = items
        self.read = read
        self.transform = transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.read(self.items[index])), 0


def image_list(work: Workload, transform: Transform, pil: bool) -> ImageList:
    """The workload's images, a pass of them, as PIL images or as tensors."""
    places = work.places().tolist()
    if work.array is not None:
        return ImageList(places, ArrayReader(work.array.images, pil), transform)
    paths = [work.paths[place] for place in places]
    return ImageList(paths, open_image if pil else decode_tensor, transform)


def in_processes(work: Workload, data: Any, **options: Any) -> Batches:
    """A DataLoader, its processes kept from round to round."""
    usual = {"batch_size": work.batch_size, "shuffle": True, "drop_last": True}
    loader = DataLoader(
        data, num_workers=work.workers, persistent_workers=True, **(options or usual)
    )
    return Batches(loader, lambda batch: batch[0], work.specs[0].crop_size)


def _jitter(spec: ViewSpec) -> tuple[float, float, float, float]:
    return spec.brightness, spec.contrast, spec.saturation, spec.hue


def _threshold(spec: ViewSpec) -> int:
    return round(255 * spec.solarise_threshold)


def _pil_steps(spec: ViewSpec) -> list[Any]:
    size, scale, ratio = spec.crop_size, spec.crop_scale, spec.crop_ratio
    return [
        transforms.RandomResizedCrop(size, scale, ratio, interpolation=BICUBIC),
        transforms.RandomHorizontalFlip(spec.flip_p),
        transforms.RandomApply([transforms.ColorJitter(*_jitter(spec))], spec.jitter_p),
        transforms.RandomGrayscale(spec.grayscale_p),
    ]


def _pil_end(spec: ViewSpec) -> list[Any]:
    return [transforms.ToTensor(), transforms.Normalize(spec.mean, spec.std)]


def pil_transform(spec: ViewSpec) -> Transform:
    """PIL images through torchvision.transforms, blur and solarise too."""
    steps = _pil_steps(spec)
    if spec.blur_p:
        blur = transforms.GaussianBlur(spec.blur_taps, spec.blur_sigma)
        steps.append(transforms.RandomApply([blur], spec.blur_p))
    if spec.solarise_p:
        steps.append(transforms.RandomSolarize(_threshold(spec), spec.solarise_p))
    return transforms.Compose([*steps, *_pil_end(spec)])


@dataclass(frozen=True)
class PilBlur:
    """PIL's blur, three box filters instead of a Gaussian."""

    p: float
    sigma: tuple[float, float]

    def __call__(self, image: Image.Image) -> Image.Image:
        if torch.rand(()) >= self.p:
            return image
        sigma = torch.empty(()).uniform_(*self.sigma).item()
        return image.filter(ImageFilter.GaussianBlur(sigma))


@dataclass(frozen=True)
class PilSolarise:
    """PIL's solarise, from level 128 on."""

    p: float

    def __call__(self, image: Image.Image) -> Image.Image:
        return ImageOps.solarize(image) if torch.rand(()) < self.p else image


def original_transform(spec: ViewSpec) -> Transform:
    """As facebookresearch/barlowtwins (main.py, class Transform)."""
    blur = PilBlur(spec.blur_p, spec.blur_sigma)
    return transforms.Compose(
        [*_pil_steps(spec), blur, PilSolarise(spec.solarise_p), *_pil_end(spec)]
    )


def v2_colours(spec: ViewSpec) -> list[nn.Module]:
    """Of torchvision.transforms.v2 on uint8 tensors, all but crop and flip."""
    steps: list[nn.Module] = [
        v2.RandomApply([v2.ColorJitter(*_jitter(spec))], spec.jitter_p),
        v2.RandomGrayscale(spec.grayscale_p),
    ]
    if spec.blur_p:
        steps.append(
            v2.RandomApply([v2.GaussianBlur(spec.blur_taps, spec.blur_sigma)], spec.blur_p)
        )
    if spec.solarise_p:
        steps.append(v2.RandomSolarize(_threshold(spec), spec.solarise_p))
    steps.append(v2.ToDtype(torch.float32, scale=True))
    return [*steps, v2.Normalize(list(spec.mean), list(spec.std))]


def v2_transform(spec: ViewSpec) -> Transform:
    """uint8 tensors through torchvision.transforms.v2."""
    size, scale, ratio = spec.crop_size, spec.crop_scale, spec.crop_ratio
    crop = v2.RandomResizedCrop(size, scale, ratio, interpolation=BICUBIC)
    return v2.Compose([crop, v2.RandomHorizontalFlip(spec.flip_p), *v2_colours(spec)])


def torchvision_pil(work: Workload) -> Pipeline:
    pair = PairOfViews(*map(pil_transform, work.specs))
    return in_processes(work, image_list(work, pair, pil=True))


def original(work: Workload) -> Pipeline:
    pair = PairOfViews(*map(original_transform, work.specs))
    return in_processes(work, image_list(work, pair, pil=True))


def torchvision_v2(work: Workload) -> Pipeline:
    pair = PairOfViews(*map(v2_transform, work.specs))
    return in_processes(work, image_list(work, pair, pil=False))


def lightly(work: Workload) -> Pipeline:
    """Its documentation's transform for Barlow Twins, whose defaults are the paper's numbers."""
    from lightly.data import LightlyDataset
    from lightly.transforms.byol_transform import (
        BYOLTransform,
        BYOLView1Transform,
        BYOLView2Transform,
    )

    size = work.specs[0].crop_size
    pair = BYOLTransform(BYOLView1Transform(input_size=size), BYOLView2Transform(input_size=size))
    images = image_list(work, pair, pil=True)
    return in_processes(work, LightlyDataset.from_torch_dataset(images))


def kornia_crop(spec: ViewSpec, mode: str) -> nn.Module:
    """kornia's random resized crop: "slice" image after image, "resample" a batch of one size."""
    from kornia.augmentation import RandomResizedCrop

    size = (spec.crop_size, spec.crop_size)
    return RandomResizedCrop(
        size, spec.crop_scale, spec.crop_ratio, "bicubic", align_corners=False, cropping_mode=mode
    )


def kornia_colours(spec: ViewSpec) -> list[nn.Module]:
    """Of kornia's augmentations of float batches, all but crop and flip."""
    import kornia.augmentation as kornia

    steps: list[nn.Module] = [
        kornia.ColorJitter(*_jitter(spec), p=spec.jitter_p),
        kornia.RandomGrayscale(p=spec.grayscale_p),
    ]
    if spec.blur_p:
        taps = (spec.blur_taps, spec.blur_taps)
        steps.append(kornia.RandomGaussianBlur(taps, spec.blur_sigma, p=spec.blur_p))
    if spec.solarise_p:
        threshold = (spec.solarise_threshold, spec.solarise_threshold)
        steps.append(kornia.RandomSolarize(threshold, (0.0, 0.0), p=spec.solarise_p))
    return [*steps, kornia.Normalize(torch.tensor(spec.mean), torch.tensor(spec.std))]


def kornia_transform(spec: ViewSpec) -> nn.Sequential:
    """All but the crop."""
    from kornia.augmentation import RandomHorizontalFlip

    return nn.Sequential(RandomHorizontalFlip(p=spec.flip_p), *kornia_colours(spec))


class KorniaBatches(Dataset):
    """Batches of two views: a list of numbers to (views, labels).

    Images of different sizes are cropped one by one, the rest is done for a batch.
    """

    def __init__(self, images: ImageList, specs: Sequence[ViewSpec], one_size: bool) -> None:
        self.images = images
        self.one_size = one_size
        mode = "resample" if one_size else "slice"
        self.crops = [kornia_crop(spec, mode) for spec in specs]
        self.transforms = [kornia_transform(spec) for spec in specs]

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


def _same(image: Tensor) -> Tensor:
    return image


def kornia(work: Workload) -> Pipeline:
    # in the processes and not in the one that trains: on a CPU its threads would fight with them
    images = image_list(work, _same, pil=False)
    data = KorniaBatches(images, work.specs, one_size=work.array is not None)
    batches = BatchSampler(RandomSampler(images), work.batch_size, drop_last=True)
    return in_processes(work, data, sampler=batches, batch_size=None)


def ffcv_stock(work: Workload) -> Pipeline:
    """Two decoders on one field, so each image is decoded twice."""
    require_ffcv()  # which says what is missing, and silences what FFCV's imports warn of
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.pipeline import PipelineSpec
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage

    assert work.beton is not None
    spec = work.specs[0]
    mean, std = 255 * np.array(spec.mean), 255 * np.array(spec.std)

    def pipeline() -> PipelineSpec:
        size = (spec.crop_size, spec.crop_size)
        decoder: Any = RandomResizedCropRGBImageDecoder(size, spec.crop_scale, spec.crop_ratio)
        normalise = NormalizeImage(mean, std, np.float32)  # pyright: ignore[reportArgumentType]
        steps: list[Any] = [RandomHorizontalFlip(spec.flip_p), normalise, ToTensor()]
        return PipelineSpec("image", decoder, [*steps, ToTorchImage()])

    loader = Loader(
        str(work.beton / "train.beton"),
        work.batch_size,
        work.workers,
        os_cache=True,
        order=OrderOption.RANDOM,
        indices=work.places(FAST_PASSES).numpy(),  # pyright: ignore[reportArgumentType]
        pipelines={"image": pipeline(), "image_2": pipeline()},  # pyright: ignore[reportArgumentType]
    )
    return Batches(loader, lambda batch: (batch[0], batch[2]), spec.crop_size)
