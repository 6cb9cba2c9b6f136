"""The backbone of a run: a fresh one, or that of a file of weights."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from sslortho.augment.views import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Triple,
)
from sslortho.models import (
    BackboneInfo,
    create_backbone,
    feature_dim,
    read_weights,
    restore_backbone,
)
from sslortho.models.backbones import STEMMED, Stem, check_backbone, needs_any_size
from sslortho.models.network_facts import required_size
from sslortho.models.own_networks import copy_module, read_as_features, unwrap
from sslortho.models.weights import pretraining_of
from sslortho.models.weights.file import locate_weights
from sslortho.options import GIVEN
from sslortho.recipes.given import NOTHING, Given, check_given
from sslortho.recipes.options import BackboneOptions

SMALL_CROP = 64
"""Side in pixels up to which views count as small: no blur, and stems without early pooling."""

NORMALISATIONS = {"imagenet": (IMAGENET_MEAN, IMAGENET_STD), "cifar10": (CIFAR10_MEAN, CIFAR10_STD)}


def resolve_stem(backbone: str, stem: str, crop_size: int) -> Stem:
    """The stem of a fresh backbone; "auto" leaves it to the size of the views in pixels.

    Raises ValueError for a stem that has no effect.
    """
    if backbone not in STEMMED:
        if stem != "auto":
            raise ValueError(
                f"stem={stem!r} has no effect on backbone={backbone!r}; it is for "
                f"{', '.join(STEMMED)}"
            )
        return "stock"
    if stem == "auto":
        return "small" if crop_size <= SMALL_CROP else "stock"
    return cast(Stem, stem)


@dataclass(frozen=True)
class Subject:
    """The backbone under evaluation."""

    backbone: nn.Module
    info: BackboneInfo
    dim: int
    """Number of features."""
    origin: str
    """Where its weights come from, and what was guessed, in words."""
    restored: bool = False
    """Whether a file has given the weights."""


def _normalisation(
    options: BackboneOptions, crop_size: int, known: BackboneInfo | None, photographs: bool = False
) -> tuple[Triple, Triple]:
    """Mean and deviation. photographs: whether weights that do not say theirs are of large images."""
    if options.normalise != "auto":
        return NORMALISATIONS[options.normalise]
    if known is not None:
        return known.mean, known.std
    small = crop_size <= SMALL_CROP and not photographs
    return NORMALISATIONS["cifar10" if small else "imagenet"]


def _describe_guesses(options: BackboneOptions, info: BackboneInfo) -> str:
    """Settings that neither options nor weights give, in words; empty if there are none."""
    crop_size = f"{info.crop_size} pixels (crop_size)" if options.crop_size is None else ""
    mean = f"mean {info.mean} (normalise)" if options.normalise == "auto" else ""
    guessed = " and ".join(filter(None, (crop_size, mean)))
    return f"; the weights do not say how they were pretrained, taken: {guessed}" if guessed else ""


def check_source(options: BackboneOptions) -> None:
    """Raise ValueError for an unknown backbone of random weights, and for weights that are not there.

    To be called before images are read.
    """
    if options.backbone_from == "random":
        check_backbone(str(options.backbone))
    elif options.backbone_from != GIVEN:
        locate_weights(options.backbone_from)


def load_subject(options: BackboneOptions, native_size: int, given: Given = NOTHING) -> Subject:
    """The backbone that the options name, with its weights, on the CPU.

    Args:
        options: which one.
        native_size: side of the views in pixels where neither options nor weights say another.
        given: objects that a Python caller hands over.

    Raises ValueError for weights that do not fit, and a backbone that does not take views of that size.
    """
    check_given(options, given)
    if options.backbone_from == GIVEN and given.backbone is not None:
        return _take_module(options, given.backbone, native_size)
    if options.backbone_from == "random":
        return _create_subject(options, options.crop_size or native_size)
    weights = read_weights(options.backbone_from)
    stem = None if options.stem == "auto" else options.stem
    restored = restore_backbone(weights, options.backbone, stem, options.weights_prefix)
    known = restored.info
    crop_size = options.crop_size or (
        known.crop_size if known else required_size(restored.network) or native_size
    )
    photographs = restored.name.startswith("timm:") or (
        restored.name in STEMMED and restored.stem == "stock"
    )
    mean, std = _normalisation(options, crop_size, known, photographs)
    info = BackboneInfo(
        backbone=restored.name, stem=restored.stem, crop_size=crop_size, mean=mean, std=std
    )
    origin = f"{options.backbone_from} ({restored.report})"
    if known is None:
        origin += _describe_guesses(options, info)
        if photographs and options.crop_size is None and crop_size <= SMALL_CROP:
            origin += (
                "; weights of ImageNet see more with --crop_size 224, which enlarges the images"
            )
    dim = feature_dim(restored.network, info.crop_size)
    return Subject(restored.network, info, dim, origin, restored=True)


def _take_module(options: BackboneOptions, module: nn.Module, native_size: int) -> Subject:
    """A copy of a module that is handed over; one of ours knows how it was pretrained."""
    module = unwrap(module)
    network, known = copy_module(module, "backbone_from"), pretraining_of(module)
    crop_size = options.crop_size or (
        known.crop_size if known else required_size(network) or native_size
    )
    network = read_as_features(network, crop_size).eval()
    mean, std = _normalisation(options, crop_size, known)
    info = BackboneInfo(backbone=GIVEN, stem="stock", crop_size=crop_size, mean=mean, std=std)
    origin = f"a {type(module).__name__} that was handed over"
    if known is None:
        origin += _describe_guesses(options, info)
    return Subject(network, info, feature_dim(network, crop_size), origin, restored=True)


def _create_subject(options: BackboneOptions, crop_size: int) -> Subject:
    """A backbone with initial weights, drawn by seed."""
    name = str(options.backbone)
    stem = resolve_stem(name, options.stem, crop_size)
    torch.manual_seed(options.seed)
    network = create_backbone(name, stem, any_size=needs_any_size(name, crop_size))
    mean, std = _normalisation(options, crop_size, None)
    info = BackboneInfo(backbone=name, stem=stem, crop_size=crop_size, mean=mean, std=std)
    dim = feature_dim(network, crop_size)
    return Subject(network, info, dim, f"random weights, seed {options.seed}")
