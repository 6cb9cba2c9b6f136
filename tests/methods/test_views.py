"""Views of the methods compared with lightly's transforms, whose numbers are the papers'."""

import pytest
from lightly.transforms import (
    BYOLTransform,
    DINOTransform,
    MoCoV2Transform,
    SimCLRTransform,
    SimSiamTransform,
    VICRegTransform,
)

from sslortho.methods import METHODS, load_method

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
    views = load_method(name).views()
    published = PUBLISHED[name]().transforms
    assert len(views) == len(published)
    for view, theirs in zip(views, published, strict=True):
        for field, number in numbers_of(theirs).items():
            assert getattr(view, field) == pytest.approx(number), (field, number)


@pytest.mark.parametrize("name", METHODS)
def test_small_views_have_no_blur_and_keep_the_ratio_of_sizes(name):
    method = load_method(name)
    views, small = method.views(), method.small_views(32)
    assert small[0].crop_size == 32
    for view, tiny in zip(views, small, strict=True):
        assert tiny.crop_size == round(view.crop_size / 7)
        assert (tiny.blur_p, tiny.mean) == (0, (0.4914, 0.4822, 0.4465))
        assert (tiny.crop_scale, tiny.solarise_p) == (view.crop_scale, view.solarise_p)


def test_simclr_on_small_images_has_half_the_strength():
    # arXiv 2002.05709, appendix B.9; lightly's cj_strength is of the same 0.8, 0.8, 0.8, 0.2
    theirs = numbers_of(SimCLRTransform(cj_strength=0.5).transforms[0])
    for view in load_method("simclr").small_views():
        for field in ("brightness", "contrast", "saturation", "hue"):
            assert getattr(view, field) == pytest.approx(theirs[field])
