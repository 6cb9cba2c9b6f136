"""Figures of images themselves: whether they differ, show anything, and are changed by their views."""

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

THUMBNAIL = 8
"""Side in pixels of the small pictures that are compared: noise and compression average out."""

COPY = 0.05
"""Root mean square difference of two thumbnails, in standard deviations of the normalisation, below
which one image counts as a copy of the other: about 3 of 256 grey levels with ImageNet's."""


def thumbnails(images: Tensor) -> Tensor:
    """Small pictures of images (n, channels, height, width), flat: (n, channels * 64), float32."""
    return adaptive_avg_pool2d(images.float(), THUMBNAIL).flatten(1)


def distinct_share(images: Tensor) -> float:
    """Percentage of images that are not copies of an earlier one, by their thumbnails.

    Args:
        images: (n, channels, height, width), normalised, without augmentation.
    """
    small = thumbnails(images)
    distances = torch.cdist(small, small) / small.shape[1] ** 0.5
    earlier = torch.ones_like(distances, dtype=torch.bool).tril(diagonal=-1)
    copies = ((distances < COPY) & earlier).any(dim=1)
    return 100 * float((~copies).double().mean())


def contrast(images: Tensor) -> float:
    """Standard deviation of the pixels within an image, median over images (n, channels, height, width).

    In standard deviations of the normalisation, so about 1 for photographs and 0 for images of one
    colour.
    """
    return float(images.float().std(dim=(2, 3), correction=0).mean(dim=1).median())


def view_difference(first: Tensor, second: Tensor) -> float:
    """Distance of two views of an image, relative to that of views of different images.

    The ratio of mean squared distances of thumbnails: 0 where augmentations are off and views are equal;
    nan where all images are the same.

    Args:
        first, second: views (n, channels, height, width) of the same images; sizes may differ.
    """
    one, other = thumbnails(first), thumbnails(second)
    own = (one - other).square().mean()
    apart = (one - other.roll(1, dims=0)).square().mean()
    return float(own / apart) if apart > 0 else float("nan")
