"""Preprocessing of single images as the evaluation views of a backbone are made."""

import os
import warnings
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sslortho.augment import EvaluationRenderer, EvaluationSpec
from sslortho.augment.cpu.view_kernel import render_views
from sslortho.augment.views import Triple
from sslortho.data.decoding import convert_image, read_pixels
from sslortho.data.image_sets import SMALL_SIDE

FORMS = (
    "a path, a PIL image, a uint8 array (height, width) or (height, width, 3), or a uint8 tensor (3, height, "
    "width)"
)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Preprocessing of an image for a backbone: a path, a PIL image or pixels to a tensor.

    The pixels: the image is decoded to RGB and turned as its EXIF data say; grey is repeated, alpha
    dropped, 16 bits become 8. Its shorter side is resized to `resize` pixels by bicubic interpolation with
    antialiasing, the central square of `crop_size` pixels is cut out and rounded to whole levels from 0 to
    255. Levels are divided by 255, minus `mean`, over `std`, for red, green and blue. That is torchvision's
    `Resize(resize, BICUBIC)`, `CenterCrop(crop_size)`, `ToTensor()`, `Normalize(mean, std)`, and what
    `embed`, `knn_eval` and `linear_eval` give a backbone: the same numbers for image files, and the same but
    for rounding for images in memory, which torch resizes.
    """

    crop_size: int
    """Side of the result in pixels."""
    mean: Triple
    """Mean of each channel, subtracted; for values from 0 to 1."""
    std: Triple
    """Standard deviation of each channel, which divides; for values from 0 to 1."""
    resize: int | None = None
    """Shorter side before the crop, in pixels. None: 256/224 of crop_size; and crop_size itself for an image
    with sides of up to 96 pixels, of which nothing is cut off but what is not square. Each image is looked at
    by itself. `embed`, `knn_eval` and `linear_eval` look at the first image alone, and treat all of a data set
    alike: give `resize` if its images are partly smaller and partly larger than that."""
    guessed: bool = False
    """Size and normalisation are guesses: the file of weights does not say them. Then each use warns."""

    def __call__(self, image: Any) -> Tensor:
        """Float32 (3, crop_size, crop_size), normalised.

        Args:
            image: a path, a PIL image, a uint8 array (height, width), (height, width, 1) or (height, width,
                3), or a uint8 tensor (height, width), (1, height, width) or (3, height, width).

        Raises ValueError for anything else, and for a file that cannot be decoded.
        """
        if self.guessed:
            warnings.warn(
                f"the weights do not say how they were pretrained; taken: {self.crop_size} pixels, mean "
                f"{self.mean}, std {self.std}. sslortho.Preprocessing(...) as model.preprocess says others",
                stacklevel=2,
            )
        pixels = read_raw(image)
        renderer = EvaluationRenderer(self._spec(max(pixels.shape[:2])))
        draws = renderer.draw(np.zeros(1, np.int64), 0)
        out = np.empty(3 * self.crop_size**2, np.float32)
        render_views(
            pixels, draws.uniforms[0], draws.parameters[0], renderer.settings, False, out, 0
        )
        return torch.from_numpy(out).view(3, self.crop_size, self.crop_size)

    def _spec(self, longest: int) -> EvaluationSpec:
        resize = self.resize
        if resize is None:
            small = longest <= SMALL_SIDE
            resize = self.crop_size if small else round(self.crop_size * 256 / 224)
        return EvaluationSpec(crop_size=self.crop_size, resize=resize, mean=self.mean, std=self.std)


def read_raw(image: Any) -> NDArray[np.uint8]:
    """Pixels (height, width, 3) of an image in one of the forms that `Preprocessing` takes."""
    if isinstance(image, str | os.PathLike):
        return read_pixels(os.fspath(cast(str, image)), upright=True)
    if isinstance(image, Image.Image):
        return np.array(convert_image(image, "the image", upright=True))
    if isinstance(image, Tensor):
        pixels = image.detach().cpu().numpy()
        pixels = pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels
    elif isinstance(image, np.ndarray):
        pixels = image
    else:
        raise ValueError(f"image={type(image).__name__} must be {FORMS}")
    if pixels.dtype != np.uint8:
        raise ValueError(
            f"image of {pixels.dtype} must be of uint8, from 0 to 255; a tensor that is normalised already "
            "goes into the model itself"
        )
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise ValueError(f"image of shape {tuple(image.shape)} must be {FORMS}")
    # a copy: kernels are compiled anew for an array that is read-only
    return np.array(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), order="C")


def list_images(images: Any) -> list[Any]:
    """Images one by one: of a list or a tuple, of an array or tensor (n, ...), or the one that it is."""
    if isinstance(images, list | tuple):
        return list(images)
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        return list(images)
    return [images]
