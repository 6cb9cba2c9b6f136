"""Any network of torchvision's `models`, without its classifier."""

import functools
from typing import Any

from torch import nn

MIXED_INPUT = ("googlenet", "inception_v3")
"""Networks whose published weights expect images of mean 0.5 and deviation 0.5 (`transform_input`)."""


@functools.cache
def torchvision_names() -> tuple[str, ...]:
    """Names of torchvision's classification networks, in the version that is installed."""
    import torchvision

    return tuple(torchvision.models.list_models(module=torchvision.models))


def vit_patch(name: str) -> int | None:
    """Side of the patches in pixels, for a vision transformer of torchvision ("vit_b_16": 16); else None."""
    patch = name.rpartition("_")[2]
    return int(patch) if name.startswith("vit_") and patch.isdecimal() else None


def check_image_size(name: str, image_size: int) -> None:
    """Raise ValueError for a size in pixels that a network cannot be created with.

    Only vision transformers of torchvision have one, and it must be a multiple of their patches' side.
    """
    patch = vit_patch(name)
    if patch is None:
        raise ValueError(
            f"image_size={image_size} has no effect on backbone={name!r}; it is for torchvision's vit_*"
        )
    if image_size < patch or image_size % patch:
        raise ValueError(
            f"image_size={image_size} is not a multiple of {patch} pixels, the patches of {name}"
        )


def create_torchvision(name: str, image_size: int | None = None) -> nn.Module:
    """Create a network of torchvision that ends with the features before its last linear layer.

    All of its own layers and names stay, so its state dict loads into torchvision's with strict=False.
    An identity takes the place of the last linear layer, and of a dropout directly before it;
    SqueezeNet, whose classifier is a convolution, ends with the mean over the positions.

    Args:
        name: one of `torchvision_names()`.
        image_size: side of the images in pixels, for vision transformers (vit_*); None for 224.

    Raises:
        ValueError: as `check_image_size`.
    """
    import torchvision

    options: dict[str, Any] = {"weights": None}
    if name in MIXED_INPUT:  # without the additional classifiers of training
        options |= {"aux_logits": False, "init_weights": True}
    if image_size is not None:
        check_image_size(name, image_size)
        options["image_size"] = image_size
    model: Any = torchvision.models.get_model(name, **options)
    if name.startswith("squeezenet"):
        model.classifier = nn.AdaptiveAvgPool2d(1)
    else:
        _remove_last_linear(model)
    return model


def _remove_last_linear(model: nn.Module) -> None:
    modules = list(model.named_modules())
    last = max(i for i, (_, module) in enumerate(modules) if isinstance(module, nn.Linear))
    before = isinstance(modules[last - 1][1], nn.Dropout)
    for name, _ in modules[last - before : last + 1]:
        model.set_submodule(name, nn.Identity())
