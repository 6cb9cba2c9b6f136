"""Boxes and flips, against the distributions of torchvision's own draws."""

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision import transforms

from sslortho.augment import ViewSpec, create_views
from sslortho.augment.draws.crops import GEOMETRY_DRAWS, TRIES, draw_crops

COUNT = 4000
P_VALUE = 1e-3
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["barlow_twins", "barlow_twins_small", "barlow_twins_digits"])
def test_the_draws_of_every_pair_of_views_follow_torchvision(name):
    spec = create_views(name)[0]
    ours = draw(spec, 32, 32, random_uniform(COUNT, seed=2))
    values = p_values(ours, draw_torchvision(spec, 32, 32), 32, 32)
    assert min(values.values()) > P_VALUE, values
