"""Crops of a batch, against torchvision's and PIL's."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from sslortho.augment.draws.crops import CropDraw
from sslortho.augment.reference.geometry import centre_crop, crop_and_resize

ROUNDING = 0.5 + 1e-2  # grey levels
HEIGHT, WIDTH = 61, 83
BOXES = {  # top, left, height, width
    "shrinks": (3, 5, 55, 70),
    "enlarges": (20, 30, 9, 7),
    "whole image": (0, 0, HEIGHT, WIDTH),
    "one pixel": (17, 40, 1, 1),
    "corner pixel": (HEIGHT - 1, WIDTH - 1, 1, 1),
    "one row": (10, 0, 1, WIDTH),
    "one column": (0, 82, HEIGHT, 1),
    "shrinks down, enlarges across": (0, 12, HEIGHT, 6),
    "at the far corner": (31, 43, 30, 40),
    "same size": (8, 9, 32, 32),
    "just larger": (8, 9, 33, 34),
}


def noise(count: int, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def smooth(count: int, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    """Waves that stay clear of 0 and 255, where PIL clamps after each of its two passes."""
    y = torch.linspace(0, 4, height).view(1, 1, -1, 1)
    x = torch.linspace(0, 5, width).view(1, 1, 1, -1)
    phase = torch.arange(3 * count).view(count, 3, 1, 1)
    return (128 + 35 * torch.sin(2 * y + phase) + 35 * torch.cos(3 * x - y + 2 * phase)).byte()


def crop_draw(boxes: list[tuple[int, int, int, int]], flip: list[bool] | None = None) -> CropDraw:
    columns = (np.array(column) for column in zip(*boxes, strict=True))
    return CropDraw(*columns, np.array(flip or [False] * len(boxes)))


def resized_crop(image: torch.Tensor, box: tuple[int, int, int, int], size: int) -> torch.Tensor:
    result = tv.resized_crop(
        image.float(), *box, [size, size], InterpolationMode.BICUBIC, antialias=True
    )
    return result.clamp(0, 255)


@pytest.mark.parametrize("size", [8, 32, 45])
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES.keys())
def test_crop_and_resize_is_torchvisions_antialiased_bicubic(box, size):
    image = noise(1)
    result = crop_and_resize(image, crop_draw([box]), size)
    assert result.dtype == torch.uint8
    assert result.shape == (1, 3, size, size)
    expected = resized_crop(image[0], box, size)
    assert (result[0].float() - expected).abs().max() <= ROUNDING


def test_a_batch_with_different_boxes_is_its_images_one_by_one():
    images, boxes = noise(len(BOXES)), list(BOXES.values())
    before = images.clone()
    result = crop_and_resize(images, crop_draw(boxes), 24)
    for crop, image, box in zip(result, images, boxes, strict=True):
        assert (crop.float() - resized_crop(image, box, 24)).abs().max() <= ROUNDING
    assert torch.equal(images, before)


def test_a_flip_is_torchvisions_hflip_for_the_flipped_alone():
    images, boxes = noise(len(BOXES)), list(BOXES.values())
    flip = [i % 2 == 0 for i in range(len(boxes))]
    result = crop_and_resize(images, crop_draw(boxes, flip), 24)
    for crop, image, box, flipped in zip(result, images, boxes, flip, strict=True):
        expected = resized_crop(image, box, 24)
        expected = tv.hflip(expected) if flipped else expected
        assert (crop.float() - expected).abs().max() <= ROUNDING


@pytest.mark.parametrize("size", [16, 40])
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES.keys())
def test_crop_and_resize_is_pils_within_a_grey_level(box, size):
    image = smooth(1)
    top, left, height, width = box
    pil = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    pil = pil.crop((left, top, left + width, top + height))
    expected = np.asarray(pil.resize((size, size), Image.Resampling.BICUBIC)).astype(int)
    result = crop_and_resize(image, crop_draw([box]), size)[0].permute(1, 2, 0).numpy()
    assert np.abs(result - expected).max() <= 1


def test_a_box_of_the_size_of_the_crop_is_copied_exactly():
    image = noise(2)
    result = crop_and_resize(image, crop_draw([(5, 7, 32, 32)] * 2, [False, True]), 32)
    cut = image[:, :, 5:37, 7:39]
    assert torch.equal(result[0], cut[0])
    assert torch.equal(result[1], cut[1].flip(-1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("height", "width", "size", "padding"),
    [(32, 32, 32, 4), (12, 17, 11, 3), (50, 61, 24, 9), (5, 7, 9, 2), (4, 4, 3, 8)],
)
def test_a_padded_crop_is_torchvisions_pad_crop_and_hflip_to_the_pixel(
    height, width, size, padding
):
    """At every place, the corners and places wholly beyond the image among them."""
    image = noise(1, height, width)
    padded = tv.pad(image[0], [padding])
    places = [
        (top, left)
        for top in range(height + 2 * padding - size + 1)
        for left in range(width + 2 * padding - size + 1)
    ]
    flip = [(top + left) % 2 == 0 for top, left in places]
    boxes = [(top - padding, left - padding, size, size) for top, left in places]
    result = crop_and_resize(image.expand(len(boxes), -1, -1, -1), crop_draw(boxes, flip), size)
    for crop, place, flipped in zip(result, places, flip, strict=True):
        expected = tv.crop(padded, *place, size, size)
        assert torch.equal(crop, tv.hflip(expected) if flipped else expected)


def test_one_pixel_becomes_a_plain_crop_of_its_colour():
    image = noise(1)
    result = crop_and_resize(image, crop_draw([(17, 40, 1, 1)]), 9)
    assert torch.equal(result[0], image[0, :, 17, 40].view(3, 1, 1).expand(3, 9, 9))


def test_pixels_outside_of_the_box_do_not_matter():
    image = noise(1)
    box = (20, 30, 13, 17)
    other = 255 - image
    other[:, :, 20:33, 30:47] = image[:, :, 20:33, 30:47]
    assert not torch.equal(image, other)
    results = [crop_and_resize(source, crop_draw([box]), 32) for source in (image, other)]
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("height", "width", "resize", "size"),
    [
        (48, 64, 32, 28),
        (64, 48, 32, 28),
        (37, 53, 29, 17),
        (53, 37, 29, 18),
        (61, 61, 32, 32),
        (20, 31, 40, 33),
        (90, 33, 33, 33),
        (33, 33, 33, 21),
        (40, 40, 40, 33),
        (75, 100, 64, 57),
        (32, 32, 32, 31),
        (50, 133, 37, 37),
    ],
)
def test_centre_crop_is_torchvisions_resize_and_center_crop(height, width, resize, size):
    images = noise(2, height, width)
    result = centre_crop(images, resize, size)
    assert result.dtype == torch.uint8
    resized = tv.resize(images.float(), resize, InterpolationMode.BICUBIC, antialias=True)
    expected = tv.center_crop(resized, [size, size]).clamp(0, 255)
    assert result.shape == expected.shape == (2, 3, size, size)
    assert (result.float() - expected).abs().max() <= ROUNDING


def test_centre_crop_at_native_size_changes_no_pixel():
    images = noise(3, 32, 32)
    assert torch.equal(centre_crop(images, 32, 32), images)


def test_centre_crop_of_the_evaluation_sizes_of_a_photograph():
    """500 x 333 pixels to 256 and 224, as every ImageNet evaluation does."""
    image = noise(1, 333, 500)
    resized = tv.resize(image.float(), 256, InterpolationMode.BICUBIC, antialias=True)
    expected = tv.center_crop(resized, [224, 224]).clamp(0, 255)
    assert (centre_crop(image, 256, 224).float() - expected).abs().max() <= ROUNDING


class Precisions(TorchDispatchMode):
    """Settings of CUDA's matrix products at each batched product."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.bmm.default:
            newer = getattr(torch.backends.cuda.matmul, "fp32_precision", None)
            self.seen.add(newer or torch.get_float32_matmul_precision())
        return func(*args, **(kwargs or {}))


def test_products_are_exact_whatever_the_process_is_set_to():
    """TensorFloat-32 has 11 bits: a grey level of 255 would be wrong by up to 1/8, and round otherwise."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with Precisions() as precisions:
            precisions.seen = set()
            centre_crop(torch.zeros(2, 3, 9, 8, dtype=torch.uint8), 6, 5)
    finally:
        torch.set_float32_matmul_precision(before)
    assert precisions.seen in ({"ieee"}, {"highest"})
