"""Which backbone: a fresh one, or that of a file of weights."""

from dataclasses import dataclass

import torch
from torch import nn

from sslortho.augment.views import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Triple,
)
from sslortho.recipes.linear_eval.options import BackboneOptions
from sslortho.models import BackboneInfo, create_backbone, read_weights, restore_backbone
from sslortho.models.backbones import TORCHVISION, Stem

SMALL_CROP = 64
"""Views up to so many pixels count as small: no blur, and stems without early pooling."""

NORMALISATIONS = {"imagenet": (IMAGENET_MEAN, IMAGENET_STD), "cifar10": (CIFAR10_MEAN, CIFAR10_STD)}


def resolve_stem(backbone: str, stem: Stem | None, crop_size: int) -> Stem:
    """The stem of a fresh backbone; None leaves it to the size of the views.

    Raises ValueError for a stem that has no effect.
    """
    if backbone not in TORCHVISION:
        if stem is not None:
            raise ValueError(
                f"stem={stem!r} has no effect on backbone={backbone!r}; it is for "
                f"{', '.join(TORCHVISION)}"
            )
        return "stock"
    return stem or ("small" if crop_size <= SMALL_CROP else "stock")


@dataclass(frozen=True)
class Subject:
    """The backbone under evaluation."""

    backbone: nn.Module
    info: BackboneInfo
    origin: str
    """Where its weights come from, and what was guessed, in words."""


def _normalisation(
    config: BackboneOptions, crop_size: int, known: BackboneInfo | None
) -> tuple[Triple, Triple]:
    if config.normalise != "auto":
        return NORMALISATIONS[config.normalise]
    if known is not None:
        return known.mean, known.std
    return NORMALISATIONS["cifar10" if crop_size <= SMALL_CROP else "imagenet"]


def _guesses(config: BackboneOptions, info: BackboneInfo) -> str:
    """What neither options nor weights say."""
    crop_size = f"{info.crop_size} pixels (crop_size)" if config.crop_size is None else ""
    mean = f"mean {info.mean} (normalise)" if config.normalise == "auto" else ""
    guessed = " and ".join(filter(None, (crop_size, mean)))
    return f"; the weights do not say how they were pretrained, taken: {guessed}" if guessed else ""


def load_subject(config: BackboneOptions, native_size: int) -> Subject:
    """The backbone that the configuration names, with its weights, on the CPU.

    native_size: side of the views in pixels where neither options nor weights say another.
    """
    stem = None if config.stem == "auto" else config.stem
    if config.backbone_from == "random":
        name, known = str(config.backbone), None
        crop_size = config.crop_size or native_size
        stem = resolve_stem(name, stem, crop_size)
        torch.manual_seed(config.seed)
        network, origin = create_backbone(name, stem), f"random weights, seed {config.seed}"
    else:
        weights = read_weights(config.backbone_from)
        restored = restore_backbone(weights, config.backbone, stem, config.weights_prefix)
        name, stem, known = restored.name, restored.stem, restored.info
        crop_size = config.crop_size or (known.crop_size if known else native_size)
        network, origin = restored.network, f"{config.backbone_from} ({restored.report})"
    mean, std = _normalisation(config, crop_size, known)
    info = BackboneInfo(backbone=name, stem=stem, crop_size=crop_size, mean=mean, std=std)
    if known is None and config.backbone_from != "random":
        origin += _guesses(config, info)
    return Subject(network, info, origin)
