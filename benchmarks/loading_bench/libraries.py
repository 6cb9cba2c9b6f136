"""Pipelines of torchvision, lightly and FFCV, each as its users write it.

lightly and FFCV are imported where they are used: they may be missing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import InterpolationMode, v2

from sslortho.augment import ViewSpec
from sslortho.data import require_ffcv

from .workload import FAST_PASSES, Batches, Pipeline, Workload

BICUBIC = InterpolationMode.BICUBIC

Transform = Callable[[Any], Any]


def open_image(path: str) -> Image.Image:
    """Open an image as torchvision's ImageFolder does: PIL, RGB."""
    with Path(path).open("rb") as file:
        return Image.open(file).convert("RGB")


def decode_tensor(path: str) -> Tensor:
    """Decode an image to uint8 (3, height, width)."""
    # here, since a later torchvision removes them
    from torchvision.io import ImageReadMode, decode_image, read_file

    return decode_image(read_file(path), ImageReadMode.RGB)


@dataclass(frozen=True)
class ArrayReader:
    """Reads from images in memory, uint8 (n, 3, height, width), by index; PIL images if `pil`."""

    images: Tensor
    pil: bool

    def __call__(self, place: int) -> Any:
        image = self.images[place]
        return Image.fromarray(image.permute(1, 2, 0).numpy()) if self.pil else image


@dataclass(frozen=True)
class PairOfViews:
    """Makes both views of an image."""

    first: Transform
    second: Transform

    def __call__(self, image: Any) -> list[Tensor]:
        return [self.first(image), self.second(image)]


class ImageList(Dataset):
    """A data set of (views, label), as torchvision's are: `transform(read(item))`, label 0."""

    def __init__(self, items: Sequence[Any], read: Transform, transform: Transform) -> None:
        self.items = items
        self.read = read
        self.transform = transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.read(self.items[index])), 0


def create_image_list(work: Workload, transform: Transform, pil: bool) -> ImageList:
    """One pass over the workload's images, as PIL images or as tensors."""
    places = work.places().tolist()
    if work.array is not None:
        return ImageList(places, ArrayReader(work.array.images, pil), transform)
    paths = [work.paths[place] for place in places]
    return ImageList(paths, open_image if pil else decode_tensor, transform)


def create_data_loader(work: Workload, data: Any, **options: Any) -> Batches:
    """A DataLoader whose processes are kept from round to round."""
    usual = {"batch_size": work.batch_size, "shuffle": True, "drop_last": True}
    loader = DataLoader(
        data, num_workers=work.workers, persistent_workers=True, **(options or usual)
    )
    return Batches(loader, lambda batch: batch[0], work.specs[0])


def list_jitter(spec: ViewSpec) -> tuple[float, float, float, float]:
    """Brightness, contrast, saturation, hue: ColorJitter's arguments."""
    return spec.brightness, spec.contrast, spec.saturation, spec.hue


def _threshold(spec: ViewSpec) -> int:
    return round(255 * spec.solarise_threshold)


def _pil_steps(spec: ViewSpec) -> list[Any]:
    size, scale, ratio = spec.crop_size, spec.crop_scale, spec.crop_ratio
    return [
        transforms.RandomResizedCrop(size, scale, ratio, interpolation=BICUBIC),
        transforms.RandomHorizontalFlip(spec.flip_p),
        transforms.RandomApply([transforms.ColorJitter(*list_jitter(spec))], spec.jitter_p),
        transforms.RandomGrayscale(spec.grayscale_p),
    ]


def _pil_end(spec: ViewSpec) -> list[Any]:
    return [transforms.ToTensor(), transforms.Normalize(spec.mean, spec.std)]


def create_pil_transform(spec: ViewSpec) -> Transform:
    """torchvision.transforms for PIL images, blur and solarise included."""
    steps = _pil_steps(spec)
    if spec.blur_p:
        blur = transforms.GaussianBlur(spec.blur_taps, spec.blur_sigma)
        steps.append(transforms.RandomApply([blur], spec.blur_p))
    if spec.solarise_p:
        steps.append(transforms.RandomSolarize(_threshold(spec), spec.solarise_p))
    return transforms.Compose([*steps, *_pil_end(spec)])


@dataclass(frozen=True)
class PilBlur:
    """PIL's blur: three box filters in place of a Gaussian."""

    p: float
    sigma: tuple[float, float]

    def __call__(self, image: Image.Image) -> Image.Image:
        if torch.rand(()) >= self.p:
            return image
        sigma = torch.empty(()).uniform_(*self.sigma).item()
        return image.filter(ImageFilter.GaussianBlur(sigma))


@dataclass(frozen=True)
class PilSolarise:
    """PIL's solarise: inverts levels from 128 on."""

    p: float

    def __call__(self, image: Image.Image) -> Image.Image:
        return ImageOps.solarize(image) if torch.rand(()) < self.p else image


def create_original_transform(spec: ViewSpec) -> Transform:
    """The transform of facebookresearch/barlowtwins (main.py, class Transform)."""
    blur = PilBlur(spec.blur_p, spec.blur_sigma)
    return transforms.Compose(
        [*_pil_steps(spec), blur, PilSolarise(spec.solarise_p), *_pil_end(spec)]
    )


def create_v2_colours(spec: ViewSpec) -> list[nn.Module]:
    """torchvision.transforms.v2 for uint8 tensors: all steps but crop and flip."""
    steps: list[nn.Module] = [
        v2.RandomApply([v2.ColorJitter(*list_jitter(spec))], spec.jitter_p),
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


def create_v2_transform(spec: ViewSpec) -> Transform:
    """torchvision.transforms.v2 for uint8 tensors: all steps."""
    size, scale, ratio = spec.crop_size, spec.crop_scale, spec.crop_ratio
    crop = v2.RandomResizedCrop(size, scale, ratio, interpolation=BICUBIC)
    return v2.Compose([crop, v2.RandomHorizontalFlip(spec.flip_p), *create_v2_colours(spec)])


def create_torchvision_pil(work: Workload) -> Pipeline:
    pair = PairOfViews(*map(create_pil_transform, work.specs))
    return create_data_loader(work, create_image_list(work, pair, pil=True))


def create_original(work: Workload) -> Pipeline:
    pair = PairOfViews(*map(create_original_transform, work.specs))
    return create_data_loader(work, create_image_list(work, pair, pil=True))


def create_torchvision_v2(work: Workload) -> Pipeline:
    pair = PairOfViews(*map(create_v2_transform, work.specs))
    return create_data_loader(work, create_image_list(work, pair, pil=False))


def create_lightly(work: Workload) -> Pipeline:
    """lightly's documented transform for Barlow Twins; its defaults are the paper's numbers."""
    from lightly.data import LightlyDataset
    from lightly.transforms.byol_transform import (
        BYOLTransform,
        BYOLView1Transform,
        BYOLView2Transform,
    )

    size = work.specs[0].crop_size
    pair = BYOLTransform(BYOLView1Transform(input_size=size), BYOLView2Transform(input_size=size))
    images = create_image_list(work, pair, pil=True)
    return create_data_loader(work, LightlyDataset.from_torch_dataset(images))


def create_ffcv_stock(work: Workload) -> Pipeline:
    """FFCV's loader with two decoders on one field: each image is decoded twice."""
    require_ffcv()  # names what is missing, and silences the warnings of FFCV's imports
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
    return Batches(loader, lambda batch: (batch[0], batch[2]), spec)
