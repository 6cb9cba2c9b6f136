"""Backbones by name: our own for small images, torchvision's, timm's.

torchvision and timm take seconds to import, so they are imported where a network of theirs is made.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, get_args

import torch
from torch import nn

from sslortho.generators import kept_generators
from sslortho.models.cifar_resnet import BasicCNN, CifarResNet
from sslortho.models.network_facts import has_depthwise, required_size
from sslortho.models.torchvision_networks import (
    check_image_size,
    create_torchvision,
    torchvision_names,
)
from sslortho.models.wide_resnet import WIDE_RESNETS, create_wide_resnet
from sslortho.options import nearest

Stem = Literal["stock", "small", "solo_learn"]


def small_vit(any_size: bool = False) -> nn.Module:
    """Vision transformer for images of 32 pixels, made by timm.

    The width of DeiT-Ti (arXiv 2012.12877: 192, 3 heads) and half its depth, on patches of 4 pixels.
    Maps (batch, 3, 32, 32) to (batch, 192), the mean over the 64 patches. With `any_size`, images may
    have any other side that is a multiple of 4; the positions are interpolated.
    """
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=32,
        patch_size=4,
        embed_dim=192,
        depth=6,
        num_heads=3,
        num_classes=0,
        global_pool="avg",
        dynamic_img_size=any_size,
    )


CIFAR_RESNETS: dict[str, Callable[..., nn.Module]] = {
    "resnet20": partial(CifarResNet, 20),
    "resnet32": partial(CifarResNet, 32),
    "resnet44": partial(CifarResNet, 44),
    "resnet56": partial(CifarResNet, 56),
    "resnet110": partial(CifarResNet, 110),
    "resnet20_postact": partial(CifarResNet, 20, post_activation=True),
    "resnet32_postact": partial(CifarResNet, 32, post_activation=True),
    "resnet44_postact": partial(CifarResNet, 44, post_activation=True),
    "resnet56_postact": partial(CifarResNet, 56, post_activation=True),
    "resnet110_postact": partial(CifarResNet, 110, post_activation=True),
}

OWN: dict[str, Callable[..., nn.Module]] = {
    "basic_cnn": BasicCNN,
    **CIFAR_RESNETS,
    "vit_small_32": small_vit,
}

TORCHVISION = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "densenet121",
    "densenet161",
)

STEMMED = (
    *TORCHVISION,
    "resnet152",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet101_2",
    "densenet169",
    "densenet201",
)
"""Networks of torchvision that have stems."""

BACKBONES = (*OWN, *TORCHVISION)
"""Names in common use. Others: any network of torchvision, WIDE_RESNETS, and "timm:NAME"."""


def _densenet(name: str, stem: Stem) -> nn.Module:
    import torchvision

    if stem == "solo_learn":
        raise ValueError(
            f"backbone={name!r} has no stem='solo_learn', since solo-learn has no densenets; "
            "stem='small' is for 32-pixel images"
        )
    model: Any = torchvision.models.get_model(name, weights=None)
    model.classifier = nn.Identity()
    if stem == "small":
        channels = model.features.conv0.out_channels
        model.features.conv0 = nn.Conv2d(3, channels, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(model.features.conv0.weight)  # as torchvision does
        model.features.pool0 = nn.Identity()
    return model


def _residual_network(name: str, stem: Stem, zero_init_residual: bool) -> nn.Module:
    import torchvision

    model = torchvision.models.get_model(name, weights=None, zero_init_residual=zero_init_residual)
    model.fc = nn.Identity()
    if stem != "stock":
        # The usual change for 32-pixel images: no early loss of resolution (arXiv 2002.05709, B.9).
        # solo-learn pads by 2 (its solo/methods/base.py), which turns 32 pixels into 34.
        padding = 2 if stem == "solo_learn" else 1
        model.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=padding, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model


def _timm_backbone(name: str, any_size: bool) -> nn.Module:
    import timm

    if any_size:
        try:  # only vision transformers and the like have this option
            return timm.create_model(name, num_classes=0, dynamic_img_size=True)
        except TypeError:
            pass
    return timm.create_model(name, num_classes=0)


def check_backbone(name: str) -> None:
    """Raise ValueError for an unknown name, without making the network."""
    if name in OWN or name in STEMMED or name in WIDE_RESNETS:
        return
    if isinstance(name, str) and name.startswith("timm:"):
        import timm

        plain = name.removeprefix("timm:")
        if not timm.is_model(plain):
            hint = nearest(plain, timm.list_models()) or "; timm.list_models() has the names"
            raise ValueError(f"backbone={name!r} is not a timm model{hint}")
    elif name not in torchvision_names():
        known, names = ", ".join(BACKBONES), (*BACKBONES, *WIDE_RESNETS, *torchvision_names())
        raise ValueError(
            f"backbone={name!r} is not one of {known}, another of torchvision's or timm:NAME"
            f"{nearest(name, names)}"
        )


def create_backbone(
    name: str,
    stem: Stem = "stock",
    zero_init_residual: bool = True,
    any_size: bool = False,
    seed: int | None = None,
    image_size: int | None = None,
) -> nn.Module:
    """Create a network from images (batch, 3, height, width) to features (batch, dim).

    The weights are random. The module is torchvision's or timm's own, with an identity in place of
    torchvision's `fc` or `classifier`, so its state dict loads into theirs, given the same stem.

    Args:
        name: one of BACKBONES or WIDE_RESNETS, any network of torchvision, or "timm:NAME".
        stem: first layers of torchvision's networks in STEMMED; the others have "stock" whatever is given.
            "small": a 3x3 first convolution of stride 1 and no max pooling, for 32-pixel images.
            "solo_learn": the same with a padding of 2, as solo-learn builds residual networks for
            CIFAR; a state dict does not tell the two apart.
        zero_init_residual: start the last batch norm of each block at zero, as in
            facebookresearch/barlowtwins; torchvision's default is one. It affects torchvision's
            residual networks only.
        any_size: let vit_small_32 and timm's vision transformers take images of any size that the patches
            fill, by interpolating the positions. The weights are the same.
        seed: of torch's generator, which the weights are drawn from; None: as it stands.
        image_size: side of the images in pixels for torchvision's vision transformers (vit_*), which
            take one size; None for 224.

    Raises:
        ValueError: an unknown name or stem, a stem that the network does not have, or `image_size` for
            a network that has none.
    """
    if stem not in get_args(Stem):
        raise ValueError(f"stem={stem!r} is not one of {', '.join(map(repr, get_args(Stem)))}")
    if seed is not None:
        torch.manual_seed(seed)
    if image_size is not None:
        check_image_size(str(name), image_size)
    check_backbone(name)
    if name == "vit_small_32":
        return small_vit(any_size)
    if name in OWN:
        return OWN[name]()
    if name in STEMMED:
        if name.startswith("densenet"):
            return _densenet(name, stem)
        return _residual_network(name, stem, zero_init_residual)
    if name in WIDE_RESNETS:
        return create_wide_resnet(name, zero_init_residual)
    if name.startswith("timm:"):
        return _timm_backbone(name.removeprefix("timm:"), any_size)
    return create_torchvision(name, image_size)


@dataclass(frozen=True, kw_only=True)
class BackboneSettings:
    """A backbone that can be created again with the same initial weights; see `create_backbone`."""

    name: str
    stem: Stem = "stock"
    zero_init_residual: bool = True
    any_size: bool = False
    seed: int = 0

    def create(self) -> nn.Module:
        """The backbone, on the CPU."""
        return create_backbone(
            self.name, self.stem, self.zero_init_residual, self.any_size, self.seed
        )


def is_small(name: str) -> bool:
    """Whether a network is made for images of 32 pixels, whatever its stem."""
    return name in OWN


@cache
def _facts(name: str) -> tuple[int | None, bool]:
    """`required_size` and `has_depthwise` of a backbone, made without memory where its code allows that."""
    if name in STEMMED or name in CIFAR_RESNETS or name in WIDE_RESNETS:
        return None, False
    with kept_generators():
        try:
            with torch.device("meta"):
                network = create_backbone(name)
        except (RuntimeError, NotImplementedError):  # it computes with numbers while it is made
            network = create_backbone(name)
    return required_size(network), has_depthwise(network)


def required_size_of(name: str) -> int | None:
    """`required_size` of a backbone by name."""
    return _facts(name)[0]


def needs_any_size(name: str, image_size: int) -> bool:
    """Whether a backbone takes images of `image_size` pixels by `any_size` alone: a transformer of another."""
    return required_size_of(name) not in (None, image_size)


def has_depthwise_of(name: str) -> bool:
    """`has_depthwise` of a backbone by name."""
    return _facts(name)[1]
