"""Literal constants: appendix A of arXiv 2103.03230 and `Transform` of facebookresearch/barlowtwins."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode, functional, v2

from sslortho.augment import SUPERVISED_VIEWS, VIEWS, EvaluationSpec, ViewRenderer, ViewSpec
from sslortho.augment.views import CIFAR10_MEAN, CIFAR10_STD, evaluation_spec

BARLOW_TWINS = {
    "crop_size": 224,
    "crop_scale": (0.08, 1.0),
    "crop_ratio": (3 / 4, 4 / 3),
    "crop_padding": None,
    "flip_p": 0.5,
    "jitter_p": 0.8,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.2,
    "hue": 0.1,
    "grayscale_p": 0.2,
    "blur_p": 1.0,
    "blur_sigma": (0.1, 2.0),
    "blur_taps": 23,
    "solarise_p": 0.0,
    "solarise_threshold": 128 / 255,
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
SMALL = BARLOW_TWINS | {
    "crop_size": 32,
    "blur_p": 0.0,
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2470, 0.2435, 0.2616),
}
DIGITS = SMALL | {"flip_p": 0.0, "crop_scale": (0.4, 1.0)}
EXPECTED = {
    "barlow_twins": (BARLOW_TWINS, BARLOW_TWINS | {"blur_p": 0.1, "solarise_p": 0.2}),
    "barlow_twins_small": (SMALL, SMALL | {"solarise_p": 0.2}),
    "barlow_twins_digits": (DIGITS, DIGITS | {"solarise_p": 0.2}),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_numbers_of_a_pair(name):
    first, second = VIEWS[name]()
    assert asdict(first) == EXPECTED[name][0]
    assert asdict(second) == EXPECTED[name][1]


def test_every_pair_is_checked_here():
    assert set(VIEWS) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_crop_size_of_a_pair_can_be_chosen_and_changes_nothing_else(name):
    pair = VIEWS[name](48)
    assert [view.crop_size for view in pair] == [48, 48]
    for view, numbers in zip(pair, EXPECTED[name], strict=True):
        assert asdict(view) == numbers | {"crop_size": 48}


BAD_FIELDS = {
    "flip_p below": {"flip_p": -0.1},
    "flip_p above": {"flip_p": 1.1},
    "flip_p not a number": {"flip_p": float("nan")},
    "jitter_p": {"jitter_p": 1.5},
    "grayscale_p": {"grayscale_p": -1.0},
    "blur_p": {"blur_p": 2.0},
    "solarise_p": {"solarise_p": -0.2},
    "crop_size zero": {"crop_size": 0},
    "crop_scale zero": {"crop_scale": (0.0, 1.0)},
    "crop_scale falling": {"crop_scale": (0.9, 0.2)},
    "crop_scale above one": {"crop_scale": (0.5, 1.2)},
    "crop_ratio zero": {"crop_ratio": (0.0, 1.0)},
    "crop_ratio falling": {"crop_ratio": (4 / 3, 3 / 4)},
    "crop_padding negative": {"crop_padding": -1},
    "brightness below": {"brightness": -0.1},
    "brightness above": {"brightness": 1.1},
    "contrast": {"contrast": 1.1},
    "saturation": {"saturation": -0.2},
    "hue below": {"hue": -0.1},
    "hue above": {"hue": 0.6},
    "blur_taps even": {"blur_taps": 22},
    "blur_taps negative": {"blur_taps": -1},
    "blur_taps longer than the crop": {"blur_taps": 449},
    "blur_sigma zero": {"blur_sigma": (0.0, 0.0)},
    "blur_sigma negative": {"blur_sigma": (-1.0, 2.0)},
    "blur_sigma falling": {"blur_sigma": (2.0, 0.1)},
    "solarise_threshold above one, as if of 255": {"solarise_threshold": 128.0},
    "std zero": {"std": (0.2, 0.0, 0.2)},
}


@pytest.mark.parametrize("bad", BAD_FIELDS.values(), ids=BAD_FIELDS.keys())
def test_a_bad_field_is_refused_by_its_name(bad):
    (name,) = bad
    with pytest.raises(ValueError, match=name):
        ViewSpec(**bad)


BORDERLINE = {
    "probabilities of 0 and 1": {"flip_p": 0.0, "jitter_p": 1.0},
    "whole image": {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)},
    "no padding, yet no resizing": {"crop_padding": 0},
    "strengths of 1 and 0": {"brightness": 1.0, "contrast": 0.0, "hue": 0.5},
    "longest kernel that can be reflected": {"crop_size": 12, "blur_taps": 23},
    "a long kernel that is never used": {"crop_size": 8, "blur_p": 0.0},
    "one sigma": {"blur_sigma": (1.0, 1.0)},
}


@pytest.mark.parametrize("fields", BORDERLINE.values(), ids=BORDERLINE.keys())
def test_borderline_fields_are_accepted(fields):
    spec = ViewSpec(**fields)
    assert {name: getattr(spec, name) for name in fields} == fields


def test_a_kernel_one_pixel_too_long_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"blur_taps=23.*crop_size=11.*blur_p=0"):
        ViewSpec(crop_size=11)


@pytest.mark.parametrize(
    "sizes", [{"crop_size": 32, "resize": 16}, {"crop_size": 0, "resize": 16}], ids=str
)
def test_an_evaluation_crop_that_the_resized_image_cannot_hold_is_refused(sizes):
    with pytest.raises(ValueError, match="crop_size"):
        EvaluationSpec(**sizes)


@pytest.mark.parametrize(
    ("crop_size", "in_memory", "resize"),
    [(224, False, 256), (192, False, 219), (224, True, 224), (32, True, 32)],
)
def test_evaluation_spec_takes_over_size_and_normalisation(crop_size, in_memory, resize):
    view = replace(VIEWS["barlow_twins_small"](crop_size)[0], mean=(0.1, 0.2, 0.3))
    spec = evaluation_spec(view, in_memory)
    assert (spec.crop_size, spec.resize) == (crop_size, resize)
    assert (spec.mean, spec.std) == ((0.1, 0.2, 0.3), (0.2470, 0.2435, 0.2616))


def test_supervised_views_have_torchvisions_crop_and_flip_alone():
    (view,) = SUPERVISED_VIEWS["supervised"](224, CIFAR10_MEAN, CIFAR10_STD)
    peer = v2.RandomResizedCrop(224)
    assert (view.crop_size, *view.crop_scale) == (224, *peer.scale)
    assert view.crop_ratio == pytest.approx(peer.ratio)
    assert view.flip_p == v2.RandomHorizontalFlip().p
    off = (view.jitter_p, view.grayscale_p, view.blur_p, view.solarise_p)
    assert off == (0, 0, 0, 0)
    assert (view.mean, view.std) == (CIFAR10_MEAN, CIFAR10_STD)


@pytest.mark.parametrize(("size", "padding"), [(32, 4), (64, 8)])
def test_the_view_for_small_images_has_padding_and_flip_alone(size, padding):
    """arXiv 1512.03385, section 4.2: 4 pixels on each side of 32."""
    (view,) = SUPERVISED_VIEWS["supervised_small"](size)
    assert (view.crop_size, view.crop_padding, view.flip_p) == (size, padding, 0.5)
    off = (view.jitter_p, view.grayscale_p, view.blur_p, view.solarise_p)
    assert off == (0, 0, 0, 0)
    assert (view.mean, view.std) == (CIFAR10_MEAN, CIFAR10_STD)
    assert evaluation_spec(view, in_memory=True).resize == size


@pytest.mark.parametrize("size", [(32, 32), (20, 32), (40, 32)])
def test_the_centre_view_is_the_largest_square(size):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    renderer = ViewRenderer(SUPERVISED_VIEWS["centre"](16, (0.0,) * 3, (1.0,) * 3), seed=3)
    (views,) = renderer.render(image.expand(5, -1, -1, -1), np.arange(5), epoch=7)
    side = min(size)
    square = functional.center_crop(image, [side, side])
    expected = functional.resize(square, [16, 16], InterpolationMode.BICUBIC, antialias=True)
    assert (views * 255 - expected).abs().max() <= 1.01  # a level of rounding
