"""The pipeline of AlbumentationsX, as its page on speed advises.

That page: decode with OpenCV, crop first, stay with 8 bits until Normalize, one OpenCV thread in each
worker of a DataLoader. AlbumentationsX is under the AGPL-3.0: nothing but this benchmark may import
it, and it is imported where it is used.
"""

# pyright: reportMissingImports=false

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sslortho.augment import ViewSpec

from .libraries import ImageList, create_data_loader, list_jitter
from .workload import Pipeline, Workload

Rows = NDArray[np.uint8]


def read_with_opencv(path: str) -> Rows:
    """Decode an image to RGB (height, width, 3)."""
    import cv2

    image = cv2.imread(path, cv2.IMREAD_COLOR_RGB)
    assert image is not None, path
    return image.astype(np.uint8, copy=False)


def create_albumentations_steps(spec: ViewSpec) -> list[Any]:
    """AlbumentationsX's steps for uint8 (height, width, 3): crop, flip, colours, blur, normalise.

    A crop that shrinks is an area average, a crop that grows is bicubic: OpenCV's bicubic does not
    antialias. The blur is a Gaussian of `spec.blur_taps`, which is faster than the package's default.
    """
    import albumentations as album
    import cv2

    brightness, contrast, saturation, hue = list_jitter(spec)
    ranges = [(max(0.0, 1 - s), 1 + s) for s in (brightness, contrast, saturation)]
    steps: list[Any] = [
        album.RandomResizedCrop(
            (spec.crop_size, spec.crop_size),
            spec.crop_scale,
            spec.crop_ratio,
            interpolation=cv2.INTER_CUBIC,
            area_for_downscale="image",
        ),
        album.HorizontalFlip(p=spec.flip_p),
        album.ColorJitter(ranges[0], ranges[1], ranges[2], (-hue, hue), p=spec.jitter_p),
        album.ToGray(p=spec.grayscale_p),
    ]
    if spec.blur_p:
        taps = (spec.blur_taps, spec.blur_taps)
        steps.append(album.GaussianBlur(taps, spec.blur_sigma, p=spec.blur_p))
    if spec.solarise_p:  # it inverts levels above the threshold, the others from the threshold on
        threshold = spec.solarise_threshold - 0.5 / 255
        steps.append(album.Solarize((threshold, threshold), p=spec.solarise_p))
    return [*steps, album.Normalize(spec.mean, spec.std), album.ToTensorV2()]


class AlbumentationsPair:
    """Makes both views of an image, each float32 (3, size, size)."""

    def __init__(self, specs: Sequence[ViewSpec]) -> None:
        import albumentations as album
        import cv2

        cv2.setNumThreads(0)  # processes that are forked keep it
        self.transforms: list[Callable[..., Any]] = [
            album.Compose(create_albumentations_steps(spec), telemetry=False) for spec in specs
        ]

    def __call__(self, image: Rows) -> list[Tensor]:
        return [transform(image=image)["image"] for transform in self.transforms]


def create_albumentations(work: Workload) -> Pipeline:
    paths = [work.paths[place] for place in work.places().tolist()]
    images = ImageList(paths, read_with_opencv, AlbumentationsPair(work.specs))
    return create_data_loader(work, images)
