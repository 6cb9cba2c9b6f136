"""Boxes and flips: which part of each image a view shows.

The functions of one image are compiled by numba. The fused CPU kernel calls them image by image,
since a box can be drawn only once an image is decoded and its size is known; `draw_crops` calls the
same functions for a batch. So every loader draws the same boxes, to the bit.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sslortho.augment.numba_kernel import kernel
from sslortho.augment.views import ViewSpec

TRIES = 10  # as torchvision's RandomResizedCrop

GEOMETRY_DRAWS = 2 * TRIES + 3
"""Uniform numbers that one crop takes: TRIES areas, TRIES ratios, place down, place across, flip."""

DOWN, ACROSS, FLIP = 2 * TRIES, 2 * TRIES + 1, 2 * TRIES + 2
"""Places of the last three among them."""


@dataclass(frozen=True)
class CropDraw:
    """Boxes in source pixels and flips, each an array (batch,).

    Boxes of padded images may reach beyond the image.
    """

    top: NDArray[np.int64]
    left: NDArray[np.int64]
    height: NDArray[np.int64]
    width: NDArray[np.int64]
    flip: NDArray[np.bool_]


def check_sizes(spec: ViewSpec, heights: NDArray[np.int64], widths: NDArray[np.int64]) -> None:
    """Raise ValueError if an image of these sizes, (batch,), is smaller than its padded crop."""
    if spec.crop_padding is None:
        return
    shorter = int(np.minimum(heights, widths).argmin())
    least = spec.crop_size - 2 * spec.crop_padding
    if min(heights[shorter], widths[shorter]) < least:
        raise ValueError(
            f"crop_size={spec.crop_size} with crop_padding={spec.crop_padding} needs images of "
            f"{least} x {least} pixels or more; one has {heights[shorter]} x {widths[shorter]}. "
            "Choose a smaller crop_size or a larger crop_padding"
        )


def draw_crops(
    spec: ViewSpec,
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
    uniform: NDArray[np.float64],
) -> CropDraw:
    """Draw boxes with the distribution of torchvision's `RandomResizedCrop` or `RandomCrop`, and flips.

    A random resized crop: up to ten tries of an area and a ratio; the first box that fits is placed
    uniformly. If none fits, the largest central box whose ratio is within the range. With
    crop_padding: a square of crop_size, placed uniformly in the padded image.

    Args:
        spec: crop_size, crop_padding, crop_scale, crop_ratio and flip_p are used.
        heights, widths: sizes of the source images in pixels, (batch,).
        uniform: (batch, GEOMETRY_DRAWS) from (0, 1).

    Raises:
        ValueError: a padded image is smaller than the crop.
    """
    if spec.crop_padding is None:
        boxes = _draw_boxes(uniform, heights, widths, spec.crop_scale, spec.crop_ratio)
    else:
        check_sizes(spec, heights, widths)
        boxes = _draw_squares(uniform, heights, widths, spec.crop_size, spec.crop_padding)
    top, left, height, width = boxes.T
    return CropDraw(top, left, height, width, uniform[:, FLIP] < spec.flip_p)


@kernel
def _draw_boxes(uniform, heights, widths, scale, ratio):
    boxes = np.empty((len(uniform), 4), np.int64)
    for i in range(len(uniform)):
        boxes[i] = draw_box(uniform[i], heights[i], widths[i], scale, ratio)
    return boxes


@kernel
def _draw_squares(uniform, heights, widths, size, padding):
    boxes = np.full((len(uniform), 4), size, np.int64)
    for i in range(len(uniform)):
        boxes[i, 0], boxes[i, 1] = draw_padded_place(
            uniform[i], heights[i], widths[i], size, padding
        )
    return boxes


@kernel
def draw_box(
    uniform: NDArray[np.float64],
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """Draw (top, left, height, width) of one random resized crop, in pixels.

    Args:
        uniform: (GEOMETRY_DRAWS,) from (0, 1).
        height, width: size of the image in pixels.
        scale, ratio: `crop_scale` and `crop_ratio` of the view.
    """
    log_low, log_high = np.log(ratio[0]), np.log(ratio[1])
    for i in range(TRIES):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform[i])
        shape = np.exp(log_low + (log_high - log_low) * uniform[TRIES + i])
        w, h = int(np.rint(np.sqrt(area * shape))), int(np.rint(np.sqrt(area / shape)))
        if 0 < w <= width and 0 < h <= height:
            top = int(np.floor(uniform[DOWN] * (height - h + 1)))
            left = int(np.floor(uniform[ACROSS] * (width - w + 1)))
            return top, left, h, w
    w, h = width, height
    if width / height > ratio[1]:
        w = max(int(np.rint(height * ratio[1])), 1)
    elif width / height < ratio[0]:
        h = max(int(np.rint(width / ratio[0])), 1)
    return (height - h) // 2, (width - w) // 2, h, w


@kernel
def draw_padded_place(
    uniform: NDArray[np.float64], height: int, width: int, size: int, padding: int
) -> tuple[int, int]:
    """Draw (top, left) of a square of `size` pixels in a padded image; both are -padding or more.

    Raises ValueError if the padded image is smaller than the square.
    """
    down, across = height + 2 * padding - size + 1, width + 2 * padding - size + 1
    if down < 1 or across < 1:
        raise ValueError(
            "an image is smaller than crop_size even with crop_padding on every side; choose a "
            "larger crop_padding or a smaller crop_size"
        )
    top = int(np.floor(uniform[DOWN] * down)) - padding
    left = int(np.floor(uniform[ACROSS] * across)) - padding
    return top, left


@kernel
def centre_interval(size: int, short: int, resize: int, crop_size: int) -> tuple[float, float]:
    """Return (start, length), in source pixels, of the central crop of evaluation along one side.

    It is what torchvision's `Resize(resize)` and `CenterCrop(crop_size)` leave.

    Args:
        size: length of this side in pixels.
        short: length of the shorter side in pixels.
        resize, crop_size: those of the `EvaluationSpec`.
    """
    resized = resize if size == short else int(resize * size / short)  # torchvision rounds down
    scale = size / resized
    return np.rint((resized - crop_size) / 2) * scale, crop_size * scale
