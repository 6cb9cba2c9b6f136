"""Whole views of one image: windows, padding, evaluation, several views in one call."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.cpu_kernels import ROUNDING, as_tensor, noise, render_fused, scene, window_of
from helpers.photometry import draw
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from sslortho.augment import SUPERVISED_VIEWS, EvaluationSpec, ViewSpec, create_views
from sslortho.augment.cpu.view_kernel import choose_window, crop_views, render_views, view_settings
from sslortho.augment.draws.crops import GEOMETRY_DRAWS, draw_crops
from sslortho.augment.draws.photometric import pack_photometric

FIRST, _ = create_views("barlow_twins", 48)
EVERYTHING = replace(FIRST, jitter_p=0.7, grayscale_p=0.3, blur_p=0.6, solarise_p=0.4)
STRONG = replace(EVERYTHING, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5, jitter_p=1.0)

PADDED = ViewSpec(crop_size=32, crop_padding=14, blur_p=0.0)


@pytest.mark.parametrize(
    "spec", [ViewSpec(), ViewSpec(crop_scale=(0.9, 1.0), flip_p=0.2), PADDED], ids=str
)
def test_the_window_that_is_chosen_is_the_box_that_is_drawn(spec):
    """draw_crops is held to torchvision's distribution by its own tests."""
    uniform = np.random.default_rng(0).random((200, GEOMETRY_DRAWS))
    heights, widths = np.random.default_rng(1).integers(20, 500, (2, 200))
    draw = draw_crops(spec, heights, widths, uniform)
    (settings,) = view_settings((spec,))
    for i in range(200):
        box = (int(x[i]) for x in (draw.top, draw.left, draw.height, draw.width))
        window = choose_window(uniform[i], settings, heights[i], widths[i])
        expected = np.array(window_of(*box, bool(draw.flip[i])))
        expected[[2, 3]] = expected[[2, 3]].clip(0, heights[i])
        expected[[6, 7]] = expected[[6, 7]].clip(0, widths[i])
        np.testing.assert_array_equal(window, expected)


def place_at(top: int, left: int, down: int, across: int, flip: bool) -> np.ndarray:
    """Uniforms that choose a place of so many down and across."""
    uniform = np.full((1, GEOMETRY_DRAWS), 0.25 if flip else 0.75)
    uniform[0, -3:-1] = (top + 0.5) / down, (left + 0.5) / across
    return uniform


# source as large as the crop, smaller, larger than a vector; last: squares wholly beyond the image
@pytest.mark.parametrize(
    ("height", "width", "size", "padding"),
    [(32, 32, 32, 4), (12, 17, 11, 3), (50, 61, 24, 9), (5, 7, 9, 2), (4, 4, 3, 8)],
)
@pytest.mark.parametrize("flip", [False, True])
def test_a_padded_crop_is_torchvisions_pad_crop_and_hflip_to_the_pixel(
    height, width, size, padding, flip
):
    """At every place, the corners among them."""
    image = noise(height, width)
    padded = tv.pad(torch.from_numpy(image).permute(2, 0, 1), [padding])
    spec = ViewSpec(crop_size=size, crop_padding=padding, blur_p=0.0)
    settings = view_settings((spec,))
    down, across = height + 2 * padding - size + 1, width + 2 * padding - size + 1
    for top in range(down):
        for left in range(across):
            crops = np.full((1, size, size, 3), 77, np.uint8)
            uniform = place_at(top, left, down, across, flip)
            crop_views(image, uniform, settings, crops)
            expected = tv.crop(padded, top, left, size, size)
            expected = tv.hflip(expected) if flip else expected
            assert torch.equal(torch.from_numpy(crops[0]).permute(2, 0, 1), expected)


@pytest.mark.parametrize(("height", "width"), [(23, 40), (40, 23)])
def test_an_image_too_small_even_with_its_padding_is_refused(height, width):
    settings = view_settings((ViewSpec(crop_size=32, crop_padding=4, blur_p=0.0),))
    crops = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="smaller than crop_size even with crop_padding"):
        crop_views(noise(height, width), np.full((1, GEOMETRY_DRAWS), 0.5), settings, crops)


@pytest.mark.parametrize("channels_last", [True, False])
def test_finished_padded_views_are_torchvisions_of_the_drawn_box(channels_last):
    """Black is 0 before the normalisation, not after."""
    (spec,) = SUPERVISED_VIEWS["supervised_small"]()
    settings, image = view_settings((spec,)), noise(32, 32)
    uniform = np.random.default_rng(0).random((20, 1, GEOMETRY_DRAWS))
    table = pack_photometric(draw(spec, 1))
    padded = tv.pad(as_tensor(image) / 255, [4])
    sizes = np.full(20, 32), np.full(20, 32)
    drawn = draw_crops(spec, *sizes, uniform[:, 0])
    for i in range(20):
        out = np.full((1, 1, 3 * 32 * 32), np.nan, np.float32)
        render_views(image, uniform[i], table, settings, channels_last, out, 0)
        flat = torch.from_numpy(out[0, 0])
        ours = flat.view(32, 32, 3).permute(2, 0, 1) if channels_last else flat.view(3, 32, 32)
        expected = tv.crop(padded, int(drawn.top[i]) + 4, int(drawn.left[i]) + 4, 32, 32)
        expected = tv.hflip(expected) if drawn.flip[i] else expected
        expected = tv.normalize(expected, list(spec.mean), list(spec.std))
        torch.testing.assert_close(ours, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("height", "width"), [(50, 71), (71, 50), (41, 41), (300, 200)])
@pytest.mark.parametrize(("resize", "size"), [(36, 32), (32, 32), (64, 48)])
def test_the_evaluation_view_is_torchvisions_resize_and_center_crop(height, width, resize, size):
    image = noise(height, width)
    settings = view_settings((EvaluationSpec(crop_size=size, resize=resize),))
    crops = np.zeros((1, size, size, 3), np.uint8)
    crop_views(image, np.zeros((1, GEOMETRY_DRAWS)), settings, crops)
    exact = tv.resize(as_tensor(image), resize, InterpolationMode.BICUBIC, antialias=True)
    exact = tv.center_crop(exact, [size, size]).clamp(0, 255)
    assert (as_tensor(crops[0]) - exact).abs().max() <= ROUNDING


SIZES = (48, 29, 61)
MIXED = tuple(
    replace(spec, crop_size=size)
    for spec, size in zip((EVERYTHING, STRONG, EVERYTHING), SIZES, strict=True)
)


def batch_of_views(images: list[np.ndarray], threads: int) -> np.ndarray:
    specs = MIXED
    uniform = np.random.default_rng(0).random((len(images), len(specs), GEOMETRY_DRAWS))
    colours = np.stack([pack_photometric(draw(s, len(images), v)) for v, s in enumerate(specs)], 1)
    settings = view_settings(specs)
    out = np.full(len(images) * sum(3 * size**2 for size in SIZES), np.nan, np.float32)

    def one(i: int) -> None:
        render_views(images[i], uniform[i], colours[i], settings, True, out, i)

    if threads:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(one, range(len(images))))
    else:
        for i in reversed(range(len(images))):
            one(i)
    return out


def test_threads_and_the_order_of_calls_change_no_bit():
    images = [noise(30 + 7 * i, 90 - 2 * i, i) for i in range(24)]
    alone = batch_of_views(images, 0)
    assert np.isfinite(alone).all()
    for _ in range(3):
        np.testing.assert_array_equal(batch_of_views(images, 4), alone)


@pytest.mark.slow
def test_finished_views_are_the_crops_with_photometry():
    """All views of two samples in one call each, beside a call for each view and each of its steps."""
    images, settings = (scene(100, 130), noise(70, 90)), view_settings(MIXED)
    uniform = np.random.default_rng(3).random((2, len(MIXED), GEOMETRY_DRAWS))
    drawn = [draw(spec, 2, seed=5 + v) for v, spec in enumerate(MIXED)]
    tables = np.stack([pack_photometric(d) for d in drawn], axis=1)
    lengths = np.array([3 * size**2 for size in SIZES])
    out = np.full(2 * lengths.sum(), np.nan, np.float32)
    together = np.zeros((2, lengths.sum()), np.uint8)
    for i, image in enumerate(images):
        render_views(image, uniform[i], tables[i], settings, True, out, i)
        crop_views(image, uniform[i], settings, together[i].reshape(1, 1, -1))
    views = np.split(out, np.cumsum(2 * lengths)[:-1])
    parts = np.split(together, np.cumsum(lengths)[:-1], axis=1)
    for view, (spec, size) in enumerate(zip(MIXED, SIZES, strict=True)):
        crops = np.zeros((2, size, size, 3), np.uint8)
        for i, image in enumerate(images):
            one = slice(view, view + 1)
            crop_views(image, uniform[i, one], settings[one], crops[i : i + 1])
        np.testing.assert_array_equal(parts[view].reshape(crops.shape), crops)
        expected = render_fused(crops, drawn[view], spec, True)
        ours = torch.from_numpy(views[view]).view(2, size, size, 3).permute(0, 3, 1, 2)
        assert torch.equal(ours, expected)
