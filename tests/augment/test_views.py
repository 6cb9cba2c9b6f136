"""Specifications: what they accept, and the evaluation view that belongs to one."""

from dataclasses import replace

import pytest

from sslortho.augment import EvaluationSpec, ViewSpec, create_views
from sslortho.augment.views import evaluation_spec

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
    view = replace(create_views("barlow_twins_small", crop_size)[0], mean=(0.1, 0.2, 0.3))
    spec = evaluation_spec(view, in_memory)
    assert (spec.crop_size, spec.resize) == (crop_size, resize)
    assert (spec.mean, spec.std) == ((0.1, 0.2, 0.3), (0.2470, 0.2435, 0.2616))
