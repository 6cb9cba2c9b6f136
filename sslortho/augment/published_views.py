"""Published views by name.

New views are a function here and a line of `PUBLISHED_VIEWS`; `create_views` then knows their
versions for small images (`_small`) and for handwriting (`_digits`) too.
"""

from collections.abc import Callable
from dataclasses import replace

from sslortho.augment.views import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Triple,
    ViewSpec,
)

PHOTOGRAPH_SIZE, SMALL_SIZE = 224, 32
"""Usual side of views in pixels: of ImageNet's photographs, of CIFAR's images."""


def barlow_twins(crop_size: int = PHOTOGRAPH_SIZE) -> tuple[ViewSpec, ...]:
    """Views of arXiv 2103.03230, appendix A, which are those of BYOL (arXiv 2006.07733, appendix B).

    The two differ in blur and solarisation alone.
    """
    first = ViewSpec(crop_size=crop_size)
    return first, replace(first, blur_p=0.1, solarise_p=0.2)


def simclr(crop_size: int = PHOTOGRAPH_SIZE) -> tuple[ViewSpec, ...]:
    """Views of arXiv 2002.05709, appendix A, with a colour strength of 1."""
    view = ViewSpec(
        crop_size=crop_size, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur_p=0.5
    )
    return view, view


def simclr_small(crop_size: int = SMALL_SIZE) -> tuple[ViewSpec, ...]:
    """Views of arXiv 2002.05709, appendix B.9, for CIFAR-10: a colour strength of 0.5, no blur."""
    half = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    return tuple(replace(view, **half) for view in for_small_images(simclr(), crop_size))


def vicreg(crop_size: int = PHOTOGRAPH_SIZE) -> tuple[ViewSpec, ...]:
    """Views of arXiv 2105.04906, appendix C.1: those of BYOL, made the same for both."""
    view = ViewSpec(crop_size=crop_size, blur_p=0.5, solarise_p=0.1)
    return view, view


def moco_v2(crop_size: int = PHOTOGRAPH_SIZE) -> tuple[ViewSpec, ...]:
    """Views of arXiv 2003.04297, section 3, with the numbers of facebookresearch/moco.

    SimSiam (arXiv 2011.10566, appendix A) takes the same.
    """
    view = ViewSpec(crop_size=crop_size, crop_scale=(0.2, 1.0), saturation=0.4, blur_p=0.5)
    return view, view


def dino(crop_size: int = PHOTOGRAPH_SIZE) -> tuple[ViewSpec, ...]:
    """Two global views and six local ones (arXiv 2104.14294), as in lightly.

    facebookresearch/dino has eight local ones.
    """
    first, second = (replace(view, crop_scale=(0.4, 1.0)) for view in barlow_twins(crop_size))
    local = replace(
        first, crop_size=round(crop_size * 96 / 224), crop_scale=(0.05, 0.4), blur_p=0.5
    )
    return first, second, *[local] * 6


def lejepa(crop_size: int = PHOTOGRAPH_SIZE) -> tuple[ViewSpec, ...]:
    """Two global views and eight local ones (arXiv 2511.08544, section 6.1), which differ in their crops.

    The numbers are those of rbalestr-lab/lejepa, README.md, which has six local ones.
    """
    large = ViewSpec(crop_size=crop_size, crop_scale=(0.3, 1.0), blur_p=0.5, solarise_p=0.2)
    local = replace(large, crop_size=round(crop_size * 98 / 224), crop_scale=(0.05, 0.3))
    return *[large] * 2, *[local] * 8


def emp_ssl(crop_size: int = PHOTOGRAPH_SIZE) -> tuple[ViewSpec, ...]:
    """Twenty crops of a quarter of the image (arXiv 2304.03977, appendix; the numbers of its code).

    tsb0601/EMP-SSL, dataset/aug4img.py. There mean and deviation of the channels are 0.5, here as everywhere.
    """
    view = ViewSpec(
        crop_size=crop_size,
        crop_scale=(0.25, 0.25),
        saturation=0.4,
        hue=0.2,
        blur_p=0.1,
        solarise_p=0.1,
    )
    return (view,) * 20


def emp_ssl_small(crop_size: int = SMALL_SIZE) -> tuple[ViewSpec, ...]:
    """The same for CIFAR-10: squares (tsb0601/EMP-SSL, dataset/aug.py), which there are blurred too."""
    views = for_small_images(emp_ssl(), crop_size)
    return tuple(replace(view, crop_ratio=(1.0, 1.0)) for view in views)


PUBLISHED_VIEWS: dict[str, Callable[[int], tuple[ViewSpec, ...]]] = {
    "barlow_twins": barlow_twins,
    "simclr": simclr,
    "vicreg": vicreg,
    "byol": barlow_twins,
    "simsiam": moco_v2,
    "moco_v2": moco_v2,
    "dino": dino,
    "lejepa": lejepa,
    "emp_ssl": emp_ssl,
}
"""Views of photographs by name; each a function of the side of the first view in pixels."""

SMALL_VIEWS: dict[str, Callable[[int], tuple[ViewSpec, ...]]] = {
    "simclr": simclr_small,
    "emp_ssl": emp_ssl_small,
}
"""The same for images of CIFAR's size, where a paper has numbers of its own for them."""

VIEW_NAMES = tuple(name + size for name in PUBLISHED_VIEWS for size in ("", "_small", "_digits"))
"""All names that `create_views` takes."""


def create_views(name: str, crop_size: int | None = None) -> tuple[ViewSpec, ...]:
    """Return published views by name.

    Args:
        name: one of `VIEW_NAMES`: a name of `PUBLISHED_VIEWS`, with "_small" for images of CIFAR's
            size (no blur, CIFAR-10's normalisation) or "_digits" for handwriting (see `for_digits`).
        crop_size: side of the first view in pixels; the others follow in proportion. Default: 224
            for photographs, 32 for small images.

    Raises:
        ValueError: there are no views of this name.
    """
    if name not in VIEW_NAMES:
        raise ValueError(f"views={name!r} is not one of {', '.join(VIEW_NAMES)}")
    if name in PUBLISHED_VIEWS:
        return PUBLISHED_VIEWS[name](PHOTOGRAPH_SIZE if crop_size is None else crop_size)
    size = SMALL_SIZE if crop_size is None else crop_size
    published = name.removesuffix("_small").removesuffix("_digits")
    if published in SMALL_VIEWS:
        views = SMALL_VIEWS[published](size)
    else:
        views = for_small_images(PUBLISHED_VIEWS[published](PHOTOGRAPH_SIZE), size)
    return for_digits(views) if name.endswith("_digits") else views


def for_small_images(views: tuple[ViewSpec, ...], crop_size: int) -> tuple[ViewSpec, ...]:
    """Adapt views of photographs to images of CIFAR's size: no blur, CIFAR-10's normalisation.

    The first view becomes `crop_size` pixels wide; the others keep their ratio to it.
    """
    scale = crop_size / views[0].crop_size
    return tuple(
        replace(
            view,
            crop_size=round(view.crop_size * scale),
            blur_p=0.0,
            mean=CIFAR10_MEAN,
            std=CIFAR10_STD,
        )
        for view in views
    )


def for_digits(views: tuple[ViewSpec, ...]) -> tuple[ViewSpec, ...]:
    """Adapt small views to handwriting: no flip (a mirrored 2 is not a digit), and no tiny crops.

    No crop is drawn from less than 0.4 of an image's area.
    """
    least = 0.4
    return tuple(
        replace(view, flip_p=0.0, crop_scale=(max(least, low), max(least, high)))
        for view in views
        for low, high in [view.crop_scale]
    )


def supervised(
    crop_size: int = PHOTOGRAPH_SIZE, mean: Triple = IMAGENET_MEAN, std: Triple = IMAGENET_STD
) -> tuple[ViewSpec]:
    """Random crop and flip, to train a classifier, in linear evaluation too.

    The numbers are those of torchvision's RandomResizedCrop, as in facebookresearch/barlowtwins,
    evaluate.py; crops are bicubic here, bilinear there.
    """
    view = ViewSpec(crop_size=crop_size, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
    return (replace(view, mean=mean, std=std),)


def supervised_small(
    crop_size: int = SMALL_SIZE, mean: Triple = CIFAR10_MEAN, std: Triple = CIFAR10_STD
) -> tuple[ViewSpec]:
    """Black padding, a random crop without resizing, and a flip, for images of 32 pixels.

    4 pixels of padding for 32, in that ratio for other sizes (arXiv 1512.03385, section 4.2).
    """
    (view,) = supervised(crop_size, mean, std)
    return (replace(view, crop_padding=crop_size // 8),)


def supervised_digits(
    crop_size: int = SMALL_SIZE, mean: Triple = CIFAR10_MEAN, std: Triple = CIFAR10_STD
) -> tuple[ViewSpec]:
    """`supervised` for handwriting: no flip, and no tiny crops."""
    (view,) = for_digits(supervised(crop_size, mean, std))
    return (view,)


def centre(
    crop_size: int = PHOTOGRAPH_SIZE, mean: Triple = IMAGENET_MEAN, std: Triple = IMAGENET_STD
) -> tuple[ViewSpec]:
    """The largest square in the middle of an image; nothing is random."""
    (view,) = supervised(crop_size, mean, std)
    return (replace(view, flip_p=0.0, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0)),)


SUPERVISED_VIEWS = {
    "supervised": supervised,
    "supervised_small": supervised_small,
    "supervised_digits": supervised_digits,
    "centre": centre,
}
"""Single views by name; each a function of the crop size, the mean and the standard deviation."""
