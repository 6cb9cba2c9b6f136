"""Literal constants: appendix A of arXiv 2103.03230 and `Transform` of facebookresearch/barlowtwins.

The numbers of the other methods' views are compared with lightly's in tests/methods/test_views.py.
"""

import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode, functional, v2

from sslortho.augment import SUPERVISED_VIEWS, VIEW_NAMES, ViewRenderer, create_views
from sslortho.augment.published_views import PUBLISHED_VIEWS
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
    first, second = create_views(name)
    assert asdict(first) == EXPECTED[name][0]
    assert asdict(second) == EXPECTED[name][1]


@pytest.mark.parametrize("name", EXPECTED)
def test_the_crop_size_of_a_pair_can_be_chosen_and_changes_nothing_else(name):
    pair = create_views(name, 48)
    assert [view.crop_size for view in pair] == [48, 48]
    for view, numbers in zip(pair, EXPECTED[name], strict=True):
        assert asdict(view) == numbers | {"crop_size": 48}


@pytest.mark.parametrize("name", VIEW_NAMES)
def test_every_name_has_views_of_the_size_asked_for(name):
    views = create_views(name, 64)
    assert views[0].crop_size == 64
    assert len(views) == len(create_views(name.removesuffix("_small").removesuffix("_digits")))
    small = name not in PUBLISHED_VIEWS
    assert all((view.blur_p == 0) == small for view in views)
    assert all((view.flip_p == 0) == name.endswith("_digits") for view in views)
    assert create_views(name)[0].crop_size == (32 if small else 224)


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"views='swav' is not one of barlow_twins, .*dino_digits"):
        create_views("swav")


def test_names_of_views_cost_no_import_of_torch():
    code = "import sys, sslortho.augment.published_views; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


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
