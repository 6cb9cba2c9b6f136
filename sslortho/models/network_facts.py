"""Facts about a network, whoever made it: the images that it takes, its features, its work."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

HEADS = frozenset({"fc", "head", "heads", "classifier", "head_dist", "last_linear"})
"""Names that classifiers have in networks of torchvision, timm and others."""

USUAL_SIZE = 224
"""Side in pixels of the images that a network is tried on, or given, where nothing says another: ImageNet's."""


def required_size(backbone: nn.Module) -> int | None:
    """Side in pixels of the only images that a backbone takes; None if it takes several sizes.

    Vision transformers of torchvision and timm have a position embedding for one size.
    """
    if isinstance(size := getattr(backbone, "image_size", None), int):
        return size
    patches: Any = getattr(backbone, "patch_embed", None)
    size = getattr(patches, "img_size", None)
    if getattr(patches, "strict_img_size", False) and isinstance(size, tuple):
        return size[0] if len(set(size)) == 1 else None
    return None


def has_depthwise(backbone: nn.Module) -> bool:
    """Whether a backbone has convolutions with one filter for each input channel."""
    return any(
        isinstance(part, nn.Conv2d) and part.groups == part.in_channels > 1
        for part in backbone.modules()
    )


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put every part of a module in evaluation mode; restore each part's mode afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@torch.no_grad()
def feature_dim(backbone: nn.Module, crop_size: int) -> int:
    """Dimension of a backbone's features, for square images of `crop_size` pixels.

    Raises:
        ValueError: the backbone does not take images of that size, or its output is not (batch, dim).
    """
    parameter = next(backbone.parameters(), torch.empty(0))
    try:
        with evaluation_mode(backbone):
            features = backbone(torch.zeros(1, 3, crop_size, crop_size).to(parameter))
    except (AssertionError, RuntimeError) as error:
        raise ValueError(
            f"crop_size={crop_size} does not fit a {type(backbone).__name__}: {error}"
        ) from error
    if features.ndim != 2:
        raise ValueError(
            f"the backbone gives features of shape {tuple(features.shape)}; (batch, dim) is needed"
        )
    return features.shape[1]


def count_multiplications(backbone: nn.Module, crop_size: int) -> float:
    """Multiplications of a forward pass of one image, those of convolutions and matrix products.

    Raises ValueError as `feature_dim`.
    """
    from torch.utils.flop_counter import FlopCounterMode  # takes seconds

    with FlopCounterMode(display=False) as counter:
        feature_dim(backbone, crop_size)
    return counter.get_total_flops() / 2
