"""Backbones by name: our own for small images, torchvision's, timm's."""

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import torch
import torchvision
from torch import nn

from sslortho.models.cifar_resnet import BasicCNN, CifarResNet
from sslortho.models.small_vit import small_vit

Stem = Literal["stock", "small", "solo_learn"]

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

BACKBONES = (*OWN, *TORCHVISION)
"""Names that need no prefix; "timm:NAME" is any model of timm."""


def _densenet(name: str, stem: Stem) -> nn.Module:
    if stem == "solo_learn":
        raise ValueError(
            f"backbone={name!r} has no stem='solo_learn', since solo-learn has no such network; "
            "stem='small' is for 32-pixel images"
        )
    model: Any = torchvision.models.get_model(name, weights=None)
    model.classifier = nn.Identity()
    if stem == "small":
        channels = model.features.conv0.out_channels
        model.features.conv0 = nn.Conv2d(3, channels, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(model.features.conv0.weight)  # as torchvision its densenets
        model.features.pool0 = nn.Identity()
    return model


def _residual_network(name: str, stem: Stem, zero_init_residual: bool) -> nn.Module:
    model = torchvision.models.get_model(name, weights=None, zero_init_residual=zero_init_residual)
    model.fc = nn.Identity()
    if stem != "stock":
        # The usual change for 32-pixel images: no early loss of resolution (arXiv 2002.05709, B.9).
        # solo-learn pads by 2 (its solo/methods/base.py), which makes 34 pixels of 32.
        padding = 2 if stem == "solo_learn" else 1
        model.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=padding, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model


def _timm_backbone(name: str, any_size: bool) -> nn.Module:
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; near: {', '.join(near)}" if near else "; timm.list_models() has the names"
        raise ValueError(f"backbone='timm:{name}' is no model of timm{hint}")
    if any_size:
        try:  # of vision transformers and their like alone
            return timm.create_model(name, num_classes=0, dynamic_img_size=True)
        except TypeError:
            pass
    return timm.create_model(name, num_classes=0)


def create_backbone(
    name: str, stem: Stem = "stock", zero_init_residual: bool = True, any_size: bool = False
) -> nn.Module:
    """A network from images (batch, 3, height, width) to features (batch, dim), randomly initialised.

    Args:
        name: one of BACKBONES, or "timm:NAME".
        stem: "small" gives torchvision's networks a 3x3 first convolution of stride 1 and no max
            pooling, for 32-pixel images; "solo_learn" the residual ones that with a padding of 2, as
            solo-learn builds its networks for CIFAR. Our own are made for small images; timm's stay
            as they are.
        zero_init_residual: the last batch norm of each block of torchvision's residual networks
            starts at zero, as in facebookresearch/barlowtwins; torchvision itself leaves it at one.
            No other network has it.
        any_size: timm's vision transformers take images of any size that their patches fill, by
            interpolated positions, beside that which they are made for. Weights are the same.

    The module is the plain one (torchvision's with an identity in place of `fc` or `classifier`), so
    its state dict loads into the plain one; that of another stem into `create_backbone(name, stem)`.
    Whether a 3x3 convolution was padded by 1 or 2 a state dict does not tell.

    Raises:
        ValueError: an unknown name or stem, or a stem that the network does not have.
    """
    if stem not in get_args(Stem):
        raise ValueError(f"stem={stem!r} is not one of {', '.join(map(repr, get_args(Stem)))}")
    if name in OWN:
        return OWN[name]()
    if name in TORCHVISION:
        if name.startswith("densenet"):
            return _densenet(name, stem)
        return _residual_network(name, stem, zero_init_residual)
    if isinstance(name, str) and name.startswith("timm:"):
        return _timm_backbone(name.removeprefix("timm:"), any_size)
    near = difflib.get_close_matches(str(name), BACKBONES, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"backbone={name!r} is not one of {', '.join(BACKBONES)} or timm:NAME{hint}")


@torch.no_grad()
def feature_dim(backbone: nn.Module, crop_size: int) -> int:
    """Dimension of the features that a backbone makes of square images of `crop_size` pixels.

    Raises ValueError if it takes none of that size, or makes something else of them.
    """
    parameter = next(backbone.parameters())
    modes = [(module, module.training) for module in backbone.modules()]
    backbone.eval()
    try:
        features = backbone(torch.zeros(1, 3, crop_size, crop_size).to(parameter))
    except (AssertionError, RuntimeError) as error:
        raise ValueError(
            f"crop_size={crop_size} is no size for a {type(backbone).__name__}: {error}"
        ) from error
    finally:
        for module, training in modes:
            module.training = training
    if features.ndim != 2:
        raise ValueError(
            f"the backbone gives features of shape {tuple(features.shape)}; (batch, dim) is needed"
        )
    return features.shape[1]
