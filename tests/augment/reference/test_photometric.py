from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from helpers.photometry import adjusted_by_torchvision
from PIL import Image, ImageOps
from scipy import stats
from torchvision.transforms import functional as tv

from sslortho.augment import VIEWS, ViewSpec
from sslortho.augment.reference.photometric import (
    PHOTOMETRIC_DRAWS,
    PhotometricDraw,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    draw_photometric,
    gaussian_blur,
    normalise,
    render_photometric,
    solarise,
    to_luma,
)

COUNT = 20_000
P_VALUE = 1e-3
FIRST, SECOND = VIEWS["barlow_twins"]()


def noise(count: int, height: int = 13, width: int = 17) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def float_noise(count: int) -> torch.Tensor:
    return noise(count).float() / 255


def every_colour(steps: int = 9) -> torch.Tensor:
    """(1, 3, h, w): all greys, all ties of two channels, all orders, black, white, primaries."""
    levels = torch.linspace(0, 1, steps)
    return torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, steps, steps * steps)


def column(values: list[float]) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


def assert_matches(result: torch.Tensor, expected: torch.Tensor, atol: float = 2e-6) -> None:
    torch.testing.assert_close(result, expected, rtol=0, atol=atol)


ADJUSTMENTS = {
    "brightness": (adjust_brightness, tv.adjust_brightness, [0.0, 0.6, 1.0, 1.15, 1.4, 3.0]),
    "contrast": (adjust_contrast, tv.adjust_contrast, [0.0, 0.6, 1.0, 1.15, 1.4, 3.0]),
    "saturation": (adjust_saturation, tv.adjust_saturation, [0.0, 0.8, 1.0, 1.1, 1.2, 3.0]),
    "hue": (adjust_hue, tv.adjust_hue, [-0.5, -0.1, 0.0, 0.03, 0.1, 0.5]),
}


@pytest.mark.parametrize("name", ADJUSTMENTS)
def test_an_adjustment_is_torchvisions_with_a_factor_for_each_sample(name):
    ours, theirs, factors = ADJUSTMENTS[name]
    images = float_noise(len(factors))
    before = images.clone()
    expected = [theirs(image, factor) for image, factor in zip(images, factors, strict=True)]
    assert_matches(ours(images, column(factors)), torch.stack(expected))
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", ADJUSTMENTS)
def test_an_adjustment_of_greys_ties_and_pure_colours_is_torchvisions(name):
    ours, theirs, factors = ADJUSTMENTS[name]
    images = every_colour().expand(len(factors), -1, -1, -1)
    expected = [theirs(image, factor) for image, factor in zip(images, factors, strict=True)]
    assert_matches(ours(images, column(factors)), torch.stack(expected))


def test_hue_leaves_grey_pixels_as_they_are():
    grey = torch.linspace(0, 1, 12).view(1, 1, 3, 4).expand(5, 3, -1, -1)
    result = adjust_hue(grey, column([-0.5, -0.1, 0.0, 0.07, 0.3]))
    assert_matches(result, grey)


def test_hue_of_a_third_of_a_turn_swaps_the_channels_round():
    images = float_noise(1)
    assert_matches(adjust_hue(images, column([1 / 3])), images.roll(1, dims=1))


def test_luma_is_torchvisions_grayscale():
    images = float_noise(3)
    assert to_luma(images).shape == (3, 1, 13, 17)
    assert_matches(to_luma(images), tv.rgb_to_grayscale(images))


@pytest.mark.parametrize("taps", [1, 3, 9, 23])
def test_blur_is_torchvisions_with_a_sigma_for_each_sample(taps):
    sigmas = [0.1, 0.3, 0.5, 1.0, 1.55, 2.0, 5.0]
    images = float_noise(len(sigmas))
    expected = [
        tv.gaussian_blur(image, [taps, taps], [sigma, sigma])
        for image, sigma in zip(images, sigmas, strict=True)
    ]
    assert_matches(gaussian_blur(images, torch.tensor(sigmas), taps), torch.stack(expected))


def test_blur_of_a_point_is_the_gaussian_itself():
    image = torch.zeros(1, 3, 31, 31)
    image[:, :, 15, 15] = 1
    result = gaussian_blur(image, torch.tensor([1.5]), 23)[0, 1].double().numpy()
    x = np.arange(-15, 16)
    density = np.exp(-(x**2) / (2 * 1.5**2)) * (np.abs(x) <= 11)
    density /= density.sum()
    np.testing.assert_allclose(result, np.outer(density, density), atol=1e-7)


def test_solarise_of_every_grey_level_is_pils():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, -1, -1)
    expected = ImageOps.solarize(Image.fromarray(levels[0, 0].numpy()), threshold=128)
    result = solarise(levels.float() / 255, ViewSpec().solarise_threshold)
    np.testing.assert_array_equal((result[0, 0] * 255).round().numpy(), np.asarray(expected))


@pytest.mark.parametrize("threshold", [0.0, 0.25, 128 / 255, 1.0])
def test_solarise_is_torchvisions(threshold):
    images = torch.cat([float_noise(2), torch.full((1, 3, 13, 17), threshold)])
    assert_matches(solarise(images, threshold), tv.solarize(images, threshold), atol=0)


@pytest.mark.parametrize("spec", [FIRST, VIEWS["barlow_twins_small"]()[0]], ids=["224", "small"])
def test_normalise_is_torchvisions(spec):
    images = float_noise(3)
    expected = tv.normalize(images, list(spec.mean), list(spec.std))
    assert_matches(normalise(images, spec.mean, spec.std), expected)


def draw(spec: ViewSpec, count: int = COUNT, seed: int = 0) -> PhotometricDraw:
    uniform = np.random.default_rng(seed).random((count, PHOTOMETRIC_DRAWS))
    return draw_photometric(spec, uniform)


def render_one(image: torch.Tensor, draw: PhotometricDraw, i: int, spec: ViewSpec) -> torch.Tensor:
    x = adjusted_by_torchvision(tv.convert_image_dtype(image, torch.float32), draw, i, spec)
    return tv.normalize(x, list(spec.mean), list(spec.std))


EVERYTHING = replace(FIRST, jitter_p=0.7, grayscale_p=0.5, blur_p=0.5, solarise_p=0.5)
NOTHING = replace(FIRST, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
STRONG = replace(SECOND, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5, jitter_p=1.0)


@pytest.mark.parametrize(
    "spec",
    [FIRST, SECOND, VIEWS["barlow_twins_small"]()[1], EVERYTHING, NOTHING, STRONG],
    ids=["first", "second", "small", "everything", "nothing", "strong"],
)
def test_a_rendered_batch_is_torchvision_image_by_image(spec):
    images = noise(80, 16, 20)
    before = images.clone()
    parameters = draw(spec, len(images), seed=1)
    result = render_photometric(images, parameters, spec)
    assert result.dtype == torch.float32
    assert torch.equal(images, before)
    expected = torch.stack(
        [render_one(image, parameters, i, spec) for i, image in enumerate(images)]
    )
    # values within rounding of the threshold may be inverted by one and not the other: at most
    # three of 76,800
    apart = (result - expected).abs() > 1e-4
    assert apart.sum() <= (3 if spec.solarise_p else 0)


def test_the_order_of_the_jitter_matters_to_the_picture():
    """So the agreement above would not hold with a frozen order."""
    images, parameters = noise(24), draw(replace(STRONG, grayscale_p=0.0, solarise_p=0.0), 24)
    orders = np.array(list(permutations(range(4))))
    drawn = render_photometric(images, replace(parameters, order=orders), FIRST)
    frozen = np.tile(np.arange(4), (24, 1))
    fixed = render_photometric(images, replace(parameters, order=frozen), FIRST)
    apart = (drawn - fixed).abs().amax(dim=(1, 2, 3)) > 0.01
    assert apart.sum() >= 20


FREQUENCIES = {
    "first jitter": (FIRST, "jitter", 0.8),
    "first grayscale": (FIRST, "grayscale", 0.2),
    "first blur": (FIRST, "blur", 1.0),
    "first solarise": (FIRST, "solarise", 0.0),
    "second jitter": (SECOND, "jitter", 0.8),
    "second grayscale": (SECOND, "grayscale", 0.2),
    "second blur": (SECOND, "blur", 0.1),
    "second solarise": (SECOND, "solarise", 0.2),
    "small blur": (VIEWS["barlow_twins_small"]()[0], "blur", 0.0),
    "small second solarise": (VIEWS["barlow_twins_small"]()[1], "solarise", 0.2),
}


@pytest.mark.parametrize(("spec", "name", "p"), FREQUENCIES.values(), ids=FREQUENCIES.keys())
def test_an_operation_has_its_frequency(spec, name, p):
    count = int(getattr(draw(spec), name).sum())
    if p in (0.0, 1.0):
        assert count == p * COUNT
    else:
        assert stats.binomtest(count, COUNT, p).pvalue > P_VALUE


RANGES = {
    "brightness": (0.6, 1.4),
    "contrast": (0.6, 1.4),
    "saturation": (0.8, 1.2),
    "hue": (-0.1, 0.1),
    "sigma": (0.1, 2.0),
}


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("spec", [FIRST, SECOND], ids=["first", "second"])
def test_a_parameter_is_uniform_over_its_range(spec, name):
    low, high = RANGES[name]
    values = getattr(draw(spec), name)
    assert stats.kstest(values, "uniform", args=(low, high - low)).pvalue > P_VALUE


def test_strengths_move_the_ranges():
    parameters = draw(ViewSpec(brightness=1.0, contrast=0.1, saturation=0.0, hue=0.5))
    for name, low, high in [("brightness", 0, 2), ("contrast", 0.9, 1.1), ("hue", -0.5, 0.5)]:
        values = getattr(parameters, name)
        assert stats.kstest(values, "uniform", args=(low, high - low)).pvalue > P_VALUE
    assert (parameters.saturation == 1).all()


def test_all_24_orders_of_the_jitter_are_equally_likely():
    orders, counts = np.unique(draw(FIRST).order, axis=0, return_counts=True)
    assert {tuple(order) for order in orders} == set(permutations(range(4)))
    assert stats.chisquare(counts).pvalue > P_VALUE


def test_parameters_are_independent_of_each_other():
    parameters = draw(EVERYTHING)
    names = ("jitter", "grayscale", "blur", "solarise", *RANGES)
    table = np.stack([getattr(parameters, name) for name in names]).astype(float)
    table = np.concatenate([table, parameters.order.T[:3]])
    correlation = np.corrcoef(table)
    # places in one permutation exclude each other: their correlation is -1/3 by counting
    correlation[len(names) :, len(names) :] = np.eye(3)
    assert np.abs(correlation - np.eye(len(table))).max() < 4.5 / np.sqrt(COUNT)


def test_the_pair_shares_no_parameter_but_by_its_uniform_numbers():
    """Equal numbers in, equal jitter out: blur and solarisation alone set the two views apart."""
    first, second = draw(FIRST), draw(SECOND)
    for name in ("jitter", "brightness", "contrast", "saturation", "hue", "order", "sigma"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert (first.blur & ~second.blur).any()
    assert (second.solarise & ~first.solarise).any()
