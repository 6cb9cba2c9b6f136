import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from sslortho.augment import VIEWS, ViewSpec
from sslortho.augment.reference.geometry import (
    TRIES,
    CropDraw,
    centre_crop,
    crop_and_resize,
    draw_crops,
)
from sslortho.augment.cpu.geometry_kernel import GEOMETRY_DRAWS

COUNT = 4000
P_VALUE = 1e-3
ROUNDING = 0.5 + 1e-2  # grey levels
STOCK = ViewSpec()
SKEWED = ViewSpec(crop_scale=(0.2, 0.7), crop_ratio=(1 / 2, 4 / 3))


def random_uniform(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, GEOMETRY_DRAWS))


def draw(spec: ViewSpec, height: int, width: int, uniform: np.ndarray) -> np.ndarray:
    """Boxes (top, left, height, width) of equal images, (count, 4)."""
    sizes = (np.full(len(uniform), side) for side in (height, width))
    crops = draw_crops(spec, *sizes, uniform)
    return np.stack([crops.top, crops.left, crops.height, crops.width], axis=1)


def draw_torchvision(spec: ViewSpec, height: int, width: int, count: int = COUNT) -> np.ndarray:
    torch.manual_seed(0)
    image = torch.empty(3, height, width, device="meta")
    scale, ratio = list(spec.crop_scale), list(spec.crop_ratio)
    boxes = [transforms.RandomResizedCrop.get_params(image, scale, ratio) for _ in range(count)]
    return np.array(boxes)


def p_values(ours: np.ndarray, theirs: np.ndarray, height: int, width: int) -> dict[str, float]:
    """Two-sample Kolmogorov-Smirnov tests of everything that makes up a box."""

    def statistics(boxes: np.ndarray) -> dict[str, np.ndarray]:
        top, left, h, w = boxes.T
        return {
            "area": h * w / (height * width),
            "ratio": w / h,
            "height": h,
            "width": w,
            "place across": left[w < width] / (width - w[w < width]),
            "place down": top[h < height] / (height - h[h < height]),
        }

    pairs = statistics(ours), statistics(theirs)
    return {
        name: stats.ks_2samp(pairs[0][name], pairs[1][name]).pvalue
        for name in pairs[0]
        if len(pairs[0][name]) and len(pairs[1][name])
    }


@pytest.mark.parametrize(
    ("height", "width"), [(224, 224), (375, 500), (500, 333), (32, 32), (120, 300), (300, 100)]
)
@pytest.mark.parametrize("spec", [STOCK, SKEWED], ids=["stock", "skewed"])
def test_boxes_have_the_distribution_of_random_resized_crop(spec, height, width):
    ours = draw(spec, height, width, random_uniform(COUNT))
    theirs = draw_torchvision(spec, height, width)
    values = p_values(ours, theirs, height, width)
    assert min(values.values()) > P_VALUE, values


def linear_ratio(uniform: np.ndarray) -> None:
    low, high = SKEWED.crop_ratio
    ratio = low + (high - low) * uniform[:, TRIES : 2 * TRIES]
    uniform[:, TRIES : 2 * TRIES] = np.log(ratio / low) / np.log(high / low)


def inverse_ratio(uniform: np.ndarray) -> None:
    low, high = np.log(SKEWED.crop_ratio)
    log_ratio = low + (high - low) * uniform[:, TRIES : 2 * TRIES]
    uniform[:, TRIES : 2 * TRIES] = (-log_ratio - low) / (high - low)


def uniform_side(uniform: np.ndarray) -> None:
    low, high = SKEWED.crop_scale
    side = np.sqrt(low) + (np.sqrt(high) - np.sqrt(low)) * uniform[:, :TRIES]
    uniform[:, :TRIES] = (side**2 - low) / (high - low)


def biased_place(uniform: np.ndarray) -> None:
    uniform[:, -3:-1] **= 1.2


def single_try(uniform: np.ndarray) -> None:
    uniform[:, : 2 * TRIES] = np.repeat(uniform[:, [0, TRIES]], TRIES, axis=1)


@pytest.mark.parametrize(
    "alter", [linear_ratio, inverse_ratio, uniform_side, biased_place, single_try]
)
def test_the_criterion_tells_an_altered_distribution_apart(alter):
    height, width = 120, 300
    uniform = random_uniform(COUNT)
    alter(uniform)
    ours = draw(SKEWED, height, width, uniform)
    values = p_values(ours, draw_torchvision(SKEWED, height, width), height, width)
    assert min(values.values()) < P_VALUE / 100


def test_place_is_uniform_over_every_whole_position():
    spec = ViewSpec(crop_scale=(0.25, 0.25), crop_ratio=(1.0, 1.0))
    boxes = draw(spec, 12, 20, random_uniform(20_000))
    side = round(np.sqrt(0.25 * 12 * 20))
    assert set(boxes[:, 2]) == set(boxes[:, 3]) == {side}
    counts = np.zeros((12 - side + 1, 20 - side + 1))
    np.add.at(counts, (boxes[:, 0], boxes[:, 1]), 1)
    assert stats.chisquare(counts.ravel()).pvalue > P_VALUE


@pytest.mark.parametrize(
    ("spec", "height", "width"),
    [
        (STOCK, 10, 500),
        (STOCK, 500, 10),
        (STOCK, 7, 301),
        (STOCK, 1, 40),
        (SKEWED, 20, 999),
        (SKEWED, 999, 20),
        # so large that rounding makes no try of the whole area fit
        (ViewSpec(crop_scale=(1.0, 1.0)), 2_000_000, 2_500_001),
        (ViewSpec(crop_scale=(1.0, 1.0)), 2_500_001, 2_000_000),
        (ViewSpec(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0)), 33, 50),
    ],
)
def test_where_no_box_fits_the_fallback_is_torchvisions(spec, height, width):
    theirs = np.unique(draw_torchvision(spec, height, width, 50), axis=0)
    ours = np.unique(draw(spec, height, width, random_uniform(50)), axis=0)
    assert len(theirs) == 1
    np.testing.assert_array_equal(ours, theirs)


def test_images_that_fall_back_do_not_disturb_the_others_of_a_batch():
    uniform = random_uniform(3)
    crops = draw_crops(STOCK, np.array([64, 10, 64]), np.array([64, 500, 64]), uniform)
    alone = draw(STOCK, 64, 64, uniform)
    for i in (0, 2):
        box = (crops.top[i], crops.left[i], crops.height[i], crops.width[i])
        assert box == tuple(alone[i])
    assert (crops.height[1], crops.width[1]) == (10, 13)


@pytest.mark.parametrize("spec", [STOCK, SKEWED], ids=["stock", "skewed"])
@pytest.mark.parametrize("extreme", [None, 2.0**-33, 1 - 2.0**-33], ids=["any", "least", "most"])
def test_boxes_lie_inside_their_images(spec, extreme):
    rng = np.random.default_rng(1)
    heights, widths = rng.integers(1, 300, (2, 20_000))
    uniform = random_uniform(20_000)
    if extreme is not None:
        uniform[:, -3:-1] = extreme
    crops = draw_crops(spec, heights, widths, uniform)
    assert min(crops.top.min(), crops.left.min()) >= 0
    assert min(crops.height.min(), crops.width.min()) >= 1
    assert ((crops.top + crops.height) <= heights).all()
    assert ((crops.left + crops.width) <= widths).all()


@pytest.mark.parametrize("flip_p", [0.0, 0.2, 0.5, 1.0])
def test_flips_have_their_frequency_whatever_the_box(flip_p):
    uniform = random_uniform(COUNT)
    sizes = np.full(COUNT, 64)
    crops = draw_crops(ViewSpec(flip_p=flip_p), sizes, sizes, uniform)
    if flip_p in (0.0, 1.0):
        assert crops.flip.sum() == flip_p * COUNT
    else:
        assert stats.binomtest(int(crops.flip.sum()), COUNT, flip_p).pvalue > P_VALUE
        assert abs(np.corrcoef(crops.flip, crops.left)[0, 1]) < 4 / np.sqrt(COUNT)


PADDED = ViewSpec(crop_size=32, crop_padding=4, blur_p=0.0)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (31, 37), (24, 32)])
def test_padded_crops_take_every_place_equally_often(height, width):
    boxes = draw(PADDED, height, width, random_uniform(20_000))
    assert (boxes[:, 2:] == 32).all()
    counts = np.zeros((height + 8 - 32 + 1, width + 8 - 32 + 1))
    np.add.at(counts, (boxes[:, 0] + 4, boxes[:, 1] + 4), 1)
    assert counts.sum() == 20_000
    if counts.size > 1:
        assert stats.chisquare(counts.ravel()).pvalue > P_VALUE


def test_padded_crops_are_placed_as_torchvisions_random_crop_places_them():
    torch.manual_seed(0)
    image = torch.empty(3, 40 + 8, 33 + 8, device="meta")
    theirs = [transforms.RandomCrop.get_params(image, (32, 32))[:2] for _ in range(COUNT)]
    ours = draw(PADDED, 40, 33, random_uniform(COUNT))[:, :2] + 4
    for a, b in zip(ours.T, np.array(theirs).T, strict=True):
        values, counts = zip(*(np.unique(x, return_counts=True) for x in (a, b)), strict=True)
        np.testing.assert_array_equal(*values)
        assert stats.chi2_contingency(np.array(counts)).pvalue > P_VALUE


@pytest.mark.parametrize(("spec", "height", "width"), [(PADDED, 23, 90), (PADDED, 90, 23)])
def test_images_too_small_even_with_their_padding_are_refused(spec, height, width):
    message = rf"crop_size=32 with crop_padding=4 needs images of 24 x 24 .* {height} x {width}"
    with pytest.raises(ValueError, match=message):
        draw_crops(spec, np.array([64, height]), np.array([64, width]), random_uniform(2))


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


@pytest.mark.parametrize("name", VIEWS)
def test_the_draws_of_every_pair_of_views_follow_torchvision(name):
    spec = VIEWS[name]()[0]
    ours = draw(spec, 32, 32, random_uniform(COUNT, seed=2))
    values = p_values(ours, draw_torchvision(spec, 32, 32), 32, 32)
    assert min(values.values()) > P_VALUE, values
