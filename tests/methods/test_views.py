"""Published views of the methods compared with lightly's transforms, whose numbers are the papers'."""

from dataclasses import replace

import pytest
from lightly.transforms import (
    BYOLTransform,
    DINOTransform,
    MoCoV2Transform,
    SimCLRTransform,
    SimSiamTransform,
    VICRegTransform,
)

from sslortho.augment.published_views import PUBLISHED_VIEWS, create_views
from sslortho.methods import METHODS

PUBLISHED = {
    "simclr": SimCLRTransform,
    "vicreg": VICRegTransform,
    "byol": BYOLTransform,
    "simsiam": SimSiamTransform,
    "moco_v2": MoCoV2Transform,
    "dino": DINOTransform,
}


def numbers_of(transform):
    """Numbers of a view of lightly, under the names of a ViewSpec."""
    # by name: lightly takes torchvision's transforms of the first or the second version
    steps = {type(step).__name__: step for step in transform.transform.transforms}
    crop, jitter = steps["RandomResizedCrop"], steps["RandomApply"].transforms[0]
    blur, normalise = steps["GaussianBlur"], steps["Normalize"]
    return {
        "crop_size": crop.size[0],
        "crop_scale": crop.scale,
        "crop_ratio": crop.ratio,
        "flip_p": steps["RandomHorizontalFlip"].p,
        "jitter_p": steps["RandomApply"].p,
        **{name: getattr(jitter, name)[1] - 1 for name in ("brightness", "contrast", "saturation")},
        "hue": jitter.hue[1],
        "grayscale_p": steps["RandomGrayscale"].p,
        "blur_p": blur.prob,
        "blur_sigma": tuple(blur.sigmas),
        "solarise_p": steps["RandomSolarization"].prob if "RandomSolarization" in steps else 0,
        "mean": tuple(normalise.mean),
        "std": tuple(normalise.std),
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_views_are_the_published_ones(name):
    views = create_views(name)
    published = PUBLISHED[name]().transforms
    assert len(views) == len(published)
    for view, theirs in zip(views, published, strict=True):
        for field, number in numbers_of(theirs).items():
            assert getattr(view, field) == pytest.approx(number), (field, number)


JITTER = {"jitter_p": 0.8, "brightness": 0.4, "contrast": 0.4}
LEJEPA = {**JITTER, "saturation": 0.2, "hue": 0.1, "flip_p": 0.5, "grayscale_p": 0.2, "blur_p": 0.5,
          "solarise_p": 0.2, "crop_ratio": (3 / 4, 4 / 3)}  # fmt: skip
"""rbalestr-lab/lejepa at eddffdd, README.md: Data augmentation and views."""
EMP_SSL = {**JITTER, "saturation": 0.4, "hue": 0.2, "flip_p": 0.5, "grayscale_p": 0.2, "blur_p": 0.1,
           "solarise_p": 0.1, "crop_scale": (0.25, 0.25), "crop_ratio": (3 / 4, 4 / 3)}  # fmt: skip
"""tsb0601/EMP-SSL at 8fc3758, dataset/aug4img.py."""


@pytest.mark.parametrize(
    ("name", "numbers", "sizes"),
    [
        ("lejepa", LEJEPA, [224] * 2 + [98] * 8),
        ("emp_ssl", EMP_SSL, [224] * 20),
        # dataset/aug.py, for CIFAR
        ("emp_ssl_small", {**EMP_SSL, "crop_ratio": (1, 1), "blur_p": 0}, [32] * 20),
    ],
)
def test_views_without_a_transform_in_lightly(name, numbers, sizes):
    views = create_views(name)
    assert [view.crop_size for view in views] == sizes
    for view in views:
        assert {field: getattr(view, field) for field in numbers} == numbers
    if name == "lejepa":
        scales = [view.crop_scale for view in views]
        assert scales == [(0.3, 1.0)] * 2 + [(0.05, 0.3)] * 8


def test_every_method_has_views_of_its_name():
    assert set(METHODS) <= set(PUBLISHED_VIEWS)


@pytest.mark.parametrize("name", PUBLISHED_VIEWS)
def test_small_views_have_no_blur_and_keep_the_ratio_of_sizes(name):
    views, small = create_views(name), create_views(name + "_small", 32)
    assert create_views(name + "_small") == small
    assert small[0].crop_size == 32
    for view, tiny in zip(views, small, strict=True):
        assert tiny.crop_size == round(view.crop_size / 7)
        assert (tiny.blur_p, tiny.mean) == (0, (0.4914, 0.4822, 0.4465))
        assert (tiny.crop_scale, tiny.solarise_p) == (view.crop_scale, view.solarise_p)


@pytest.mark.parametrize("name", PUBLISHED_VIEWS)
def test_views_of_digits_are_small_views_without_flips_and_tiny_crops(name):
    small, digits = create_views(name + "_small", 28), create_views(name + "_digits", 28)
    for view, digit in zip(small, digits, strict=True):
        low, high = view.crop_scale
        assert digit == replace(view, flip_p=0, crop_scale=(max(low, 0.4), max(high, 0.4)))


def test_simclr_on_small_images_has_half_the_strength():
    # arXiv 2002.05709, appendix B.9; lightly's cj_strength is of the same 0.8, 0.8, 0.8, 0.2
    theirs = numbers_of(SimCLRTransform(cj_strength=0.5).transforms[0])
    for view in create_views("simclr_small"):
        for field in ("brightness", "contrast", "saturation", "hue"):
            assert getattr(view, field) == pytest.approx(theirs[field])
