"""Recognition of the network that a file's weights are of, by the names and shapes of its tensors."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sslortho.models.backbones import BACKBONES, STEMMED, Stem, create_backbone
from sslortho.models.torchvision_networks import torchvision_names, vit_patch
from sslortho.models.weights.file import WeightsFile
from sslortho.models.weights.matching import Blueprint, Fit, closest_fit, complete_fits, unwrapped
from sslortho.models.weights.parametrized import put_together
from sslortho.models.wide_resnet import WIDE_RESNETS

LANDMARKS = {
    "alexnet": "features.0.weight",
    "convnext": "features.1.0.layer_scale",
    "densenet": "features.conv0.weight",
    "efficientnet": "features.0.0.weight",
    "googlenet": "conv1.conv.weight",
    "inception": "Conv2d_1a_3x3.conv.weight",
    "maxvit": "stem.0.0.weight",
    "mnasnet": "layers.0.weight",
    "mobilenet": "features.0.0.weight",
    "regnet": "stem.0.weight",
    "resnet": "layer1.0.conv1.weight",
    "resnext": "layer1.0.conv1.weight",
    "shufflenet": "conv1.0.weight",
    "squeezenet": "features.3.squeeze.weight",
    "swin": "features.1.0.attn.relative_position_bias_table",
    "swin_v2": "features.1.0.attn.logit_scale",
    "vgg": "features.0.weight",
    "vit": "encoder.pos_embedding",
    "wide_resnet": "layer1.0.conv1.weight",
}
"""A tensor that all torchvision's networks of a family have. Where no name in a file ends so, the family's
networks need not be made for a comparison, which takes a tenth of a second each."""

POSITIONS = LANDMARKS["vit"]


class _NoMemory(TorchFunctionMode):
    """Mode in which `torch.empty`, which layers make their parameters by, allocates nothing.

    Under `torch.device("meta")` the networks fail that compute their widths with tensors (RegNet).
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@functools.cache
def blueprint(name: str, stem: Stem, image_size: int | None = None) -> Blueprint:
    """Names and shapes of a network of `create_backbone`, without its memory."""
    with _NoMemory():
        return Blueprint.of(create_backbone(name, stem, image_size=image_size))


@functools.cache
def _families() -> dict[str, tuple[str, ...]]:
    """Networks beside BACKBONES by landmark; those of families that are not known here under ""."""
    families: dict[str, tuple[str, ...]] = {LANDMARKS["resnet"]: tuple(WIDE_RESNETS)}
    for name in torchvision_names():
        if name not in BACKBONES:
            family = max((f for f in LANDMARKS if name.startswith(f)), key=len, default=None)
            landmark = LANDMARKS[family] if family else ""
            families[landmark] = (*families.get(landmark, ()), name)
    return families


def _beyond_first(name: str) -> str:
    """Name without its first part, which may be a number in a file."""
    return "." + name.partition(".")[2]


def _candidates(state: Mapping[str, Tensor]) -> list[tuple[str, Stem]]:
    """Names and stems that the file's names do not rule out."""
    names = list(BACKBONES)
    short = [unwrapped(name) for name in state]
    for landmark, family in _families().items():
        if any(name.endswith((_beyond_first(landmark), landmark)) for name in short):
            names += family
    stems: tuple[Stem, ...] = ("stock", "small")
    return [(n, stem) for stem in stems for n in names if stem == "stock" or n in STEMMED]


def image_sizes(state: Mapping[str, Tensor], name: str) -> list[int | None]:
    """Sides of the images in pixels that a file's vision transformers take; [None] for other networks.

    A transformer of torchvision takes one size, and its position embedding (1, 1 + patches, dim) tells.
    """
    patch = vit_patch(name)
    if patch is None:
        return [None]
    sizes: set[int] = set()
    for key, value in state.items():
        if unwrapped(key).endswith(POSITIONS) and value.ndim == 3 and value.shape[1] > 1:
            sizes.add(patch * math.isqrt(value.shape[1] - 1))
    return [*sorted(sizes)] or [None]


def find_fits(
    weights: WeightsFile, name: str, stem: Stem, prefix: str | None = None
) -> list[tuple[int | None, Fit]]:
    """Image sizes, and the places in a file where all tensors of a network lie."""
    whole = put_together(weights.state)
    return [
        (size, fit)
        for size in image_sizes(weights.state, name)
        for fit in complete_fits(blueprint(name, stem, size), whole.tensors, prefix, whole.aside)
    ]


def recognise(weights: WeightsFile, prefix: str | None = None) -> list[tuple[str, Stem]]:
    """Recognise weights: names and stems whose tensors the file holds, ours and torchvision's.

    It must hold all of them, and none of a larger network; a head may be there. The result is usually
    one pair. It is empty for timm's and other networks, and holds several pairs if the file holds
    several networks. The stem "solo_learn" has the same tensors as "small" and is never returned:
    `choose_architecture` asks for it.

    Args:
        weights: result of `read_weights`.
        prefix: the only prefix to look under; None for all.
    """
    prefix = with_dot(prefix)
    return [pair for pair in _candidates(weights.state) if find_fits(weights, *pair, prefix)]


def closest_network(
    weights: WeightsFile, prefix: str | None = None
) -> tuple[str, Stem, Fit] | None:
    """The candidate most of whose tensors are in the file, if more than half are."""
    whole, share = put_together(weights.state), 0.5
    best: tuple[str, Stem, Fit] | None = None
    for name, stem in _candidates(weights.state):
        wanted = blueprint(name, stem, image_sizes(weights.state, name)[0])
        fit = closest_fit(wanted, whole.tensors, with_dot(prefix), whole.aside)
        found = len(fit.names) / (len(wanted.shapes) + len(fit.surplus))
        if found > share:
            best = (name, stem, fit)
            share = found
    return best


def with_dot(prefix: str | None) -> str | None:
    """The prefix with its final dot, which users may leave out."""
    return f"{prefix}." if prefix and not prefix.endswith(".") else prefix
