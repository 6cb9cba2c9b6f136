"""The plain photometry, operation by operation and whole, against torchvision's and PIL's."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from helpers.photometry import adjusted_by_torchvision, draw
from PIL import Image, ImageOps
from torchvision.transforms import functional as tv

from sslortho.augment import ViewSpec, create_views
from sslortho.augment.draws.photometric import PhotometricDraw
from sslortho.augment.reference.photometric import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    gaussian_blur,
    normalise,
    render_photometric,
    solarise,
    to_luma,
)

FIRST, SECOND = create_views("barlow_twins")


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


@pytest.mark.parametrize(
    "spec", [FIRST, create_views("barlow_twins_small")[0]], ids=["224", "small"]
)
def test_normalise_is_torchvisions(spec):
    images = float_noise(3)
    expected = tv.normalize(images, list(spec.mean), list(spec.std))
    assert_matches(normalise(images, spec.mean, spec.std), expected)


def render_one(image: torch.Tensor, drawn: PhotometricDraw, i: int, spec: ViewSpec) -> torch.Tensor:
    x = adjusted_by_torchvision(tv.convert_image_dtype(image, torch.float32), drawn, i, spec)
    return tv.normalize(x, list(spec.mean), list(spec.std))


EVERYTHING = replace(FIRST, jitter_p=0.7, grayscale_p=0.5, blur_p=0.5, solarise_p=0.5)
NOTHING = replace(FIRST, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
STRONG = replace(SECOND, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5, jitter_p=1.0)


@pytest.mark.parametrize(
    "spec",
    [FIRST, SECOND, create_views("barlow_twins_small")[1], EVERYTHING, NOTHING, STRONG],
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
