"""Crops of one image, against torchvision's antialiased bicubic."""

import numpy as np
import pytest
import torch
from helpers.cpu_kernels import ROUNDING, as_tensor, noise, window_of
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from sslortho.augment.cpu.geometry_kernel import crop_planes


def planes_of(image: np.ndarray, window: list[float], size: int) -> np.ndarray:
    planes = np.full(3 * size * size, np.nan, np.float32)
    crop_planes(image, np.array(window, dtype=np.float64), size, planes)
    return planes.reshape(3, size, size)


# (source height, width), (top, left, height, width): narrower than a vector, wider, shrinking by
# little and by much, enlarging, at every edge
CROPS = [
    ((40, 60), (0, 0, 40, 60)), ((40, 60), (3, 5, 30, 47)), ((40, 60), (39, 59, 1, 1)),
    ((40, 60), (10, 20, 9, 3)), ((40, 60), (0, 49, 40, 11)), ((40, 60), (5, 0, 3, 60)),
    ((8, 5), (1, 1, 6, 4)), ((300, 410), (2, 3, 290, 400)), ((900, 700), (0, 0, 900, 700)),
    ((64, 64), (17, 13, 32, 32)),
]  # fmt: skip


@pytest.mark.parametrize("size", [5, 16, 32, 33, 48])
@pytest.mark.parametrize(("source", "box"), CROPS, ids=str)
def test_a_crop_is_torchvisions_antialiased_bicubic_rounded_once(source, box, size):
    image = noise(*source)
    for flip in (False, True):
        ours = torch.from_numpy(planes_of(image, window_of(*box, flip), size))
        exact = tv.resized_crop(
            as_tensor(image), *box, [size, size], InterpolationMode.BICUBIC, antialias=True
        ).clamp(0, 255)
        exact = tv.hflip(exact) if flip else exact
        assert (ours - exact).abs().max() <= ROUNDING
        assert torch.equal(ours, ours.round())


def test_what_lies_outside_of_the_box_does_not_matter():
    image, other = noise(50, 70), noise(50, 70, seed=1)
    other[5:35, 8:49] = image[5:35, 8:49]
    window = window_of(5, 8, 30, 41)
    np.testing.assert_array_equal(planes_of(image, window, 24), planes_of(other, window, 24))
