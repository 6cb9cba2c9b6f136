"""Networks that a user hands over: any module from images to features, read as (batch, dim)."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sslortho.generators import kept_generators
from sslortho.models.backbones import Stem
from sslortho.models.network_facts import HEADS, evaluation_mode, feature_dim
from sslortho.options import GIVEN

CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
"""Names of the parameter that is put before the tokens of an image: of timm and most of transformers,
of torchvision, of transformers' CLIP."""


@contextmanager
def trial_mode(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients inside; modes and generators are restored at the end."""
    with evaluation_mode(network), torch.no_grad(), kept_generators():
        yield


def _pool(features: Tensor) -> Tensor:
    """A map (batch, dim, height, width) averaged over its places; (batch, dim) as it is."""
    return features.mean(dim=(2, 3)) if features.ndim == 4 else features


READERS: dict[str, Callable[[Any], Tensor]] = {
    "the mean over the places of its map (batch, dim, height, width)": _pool,
    "its pooled output": lambda output: _pool(output.pooler_output),
    "the mean over the places of its last map": lambda output: _pool(output.last_hidden_state),
    "its class token": lambda output: output.last_hidden_state[:, 0],
    "the mean over its tokens": lambda output: output.last_hidden_state.mean(dim=1),
}
"""How features (batch, dim) are read from an output, in words."""

_MAP, _POOLED, _LAST_MAP, _CLASS_TOKEN, _MEAN_TOKEN = READERS


class FeatureReader(nn.Module):
    """A network whose output is read as features (batch, dim).

    Args:
        network: from images (batch, 3, height, width) to a map, or to an output of transformers.
        reading: key of READERS.
    """

    def __init__(self, network: nn.Module, reading: str) -> None:
        super().__init__()
        self.network = network
        self.reading = reading

    def forward(self, images: Tensor) -> Tensor:
        return READERS[self.reading](self.network(images))


def plain_network(backbone: nn.Module) -> nn.Module:
    """The network as it was handed over, without its reader: its state dict has the user's names."""
    return backbone.network if isinstance(backbone, FeatureReader) else backbone


def describe_output(value: Any) -> str:
    """An output in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
    if isinstance(value, dict):  # transformers' outputs too
        return f"a {type(value).__name__} of {', '.join(map(str, value))}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def _choose_reading(network: nn.Module, output: Any) -> str | None:
    """Key of READERS for an output; None if the output is none that is known."""
    if isinstance(output, Tensor):
        return _MAP if output.ndim == 4 else None
    if isinstance(getattr(output, "pooler_output", None), Tensor):
        return _POOLED
    last = getattr(output, "last_hidden_state", None)
    if not isinstance(last, Tensor) or last.ndim not in (3, 4):
        return None
    if last.ndim == 4:
        return _LAST_MAP
    names = (name.rpartition(".")[2] for name, _ in network.named_parameters())
    return _CLASS_TOKEN if any(name in CLASS_TOKENS for name in names) else _MEAN_TOKEN


def _find_head(network: nn.Module, dim: int) -> str | None:
    """Name of the dense layer of `dim` outputs that a network ends with, if it is called as classifiers are."""
    children = list(network.named_children())
    name, last = children[-1] if children else ("", network)
    is_head = isinstance(last, nn.Linear) and last.out_features == dim and name in HEADS
    return name if is_head else None


def _find_channels(network: nn.Module) -> int:
    """Channels of the images that the first convolution takes; 3 if there is none."""
    convolutions = (part for part in network.modules() if isinstance(part, nn.Conv2d))
    return next((part.in_channels for part in convolutions), 3)


def _run(network: nn.Module, crop_size: int) -> Any:
    """Output of two grey images. Raises ValueError, with the network's own words, if it fails."""
    images = torch.zeros(2, 3, crop_size, crop_size)
    try:
        with trial_mode(network):
            return network(images)
    except Exception as error:  # a user's module may raise anything
        size = getattr(getattr(network, "config", None), "image_size", None)
        remedy = f"give crop_size={size}, its own" if isinstance(size, int) else "give another"
        words = " ".join(str(error).split())
        if "channels" in words and (channels := _find_channels(network)) != 3:
            raise ValueError(
                f"model={type(network).__name__} does not take images of 3 channels, its first convolution has "
                f"{channels}; wrap it in a module that makes {channels} of 3, such as by "
                "images.mean(dim=1, keepdim=True)"
            ) from error
        raise ValueError(
            f"model={type(network).__name__} does not take images (2, 3, {crop_size}, {crop_size}) "
            f"({type(error).__name__}: {words}); crop_size={crop_size} says their size, {remedy}"
        ) from error


def read_as_features(network: nn.Module, crop_size: int) -> nn.Module:
    """The network itself if it gives features (batch, dim), else a `FeatureReader` of it.

    A map (batch, dim, height, width) is averaged over its places. Of transformers' outputs the pooled
    one is taken; without it the class token, or the mean over the tokens where there is no class token.

    Args:
        network: from images (batch, 3, height, width); it is run once on two images, in evaluation
            mode, and neither its statistics nor the global generators change.
        crop_size: side of the images in pixels.

    Raises ValueError if it does not take such images, or its output is none of these.
    """
    output = _run(network, crop_size)
    backbone = network
    if not (isinstance(output, Tensor) and output.ndim == 2):
        reading = _choose_reading(network, output)
        if reading is None:
            raise _no_features(network, output)
        backbone = FeatureReader(network, reading)
        output = READERS[reading](output)
    if output.ndim != 2 or len(output) != 2 or not output.is_floating_point():
        raise _no_features(network, output)
    return backbone


def _no_features(network: nn.Module, output: Any) -> ValueError:
    logits = getattr(output, "logits", None) is not None
    remedy = (
        "it is a classifier; give the network below it, such as transformers' AutoModel makes"
        if logits
        else "wrap it in a module whose forward returns features (batch, dim)"
    )
    return ValueError(
        f"model={type(network).__name__} gives {describe_output(output)} for a batch of 2 images, and features "
        f"(batch, dim) or a map (batch, dim, height, width) are needed; {remedy}"
    )


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside of torch.compile's or DataParallel's."""
    while True:
        inside = getattr(module, "_orig_mod", None)
        if inside is None and isinstance(
            module, nn.DataParallel | nn.parallel.DistributedDataParallel
        ):
            inside = module.module
        if not isinstance(inside, nn.Module):
            return module
        module = inside


def copy_module(module: nn.Module, name: str) -> nn.Module:
    """A deep copy on the CPU in float32, whose training changes nothing of the module.

    Args:
        module: of a user. What torch.compile and DataParallel put around it stays behind.
        name: of the argument that it is, for messages.

    Raises ValueError for a module with lazy parameters or with ones on the meta device, and if it cannot be
    copied.
    """
    module = unwrap(module)
    parameters = list(module.parameters())
    if any(isinstance(p, nn.UninitializedParameter) for p in parameters):
        raise ValueError(
            f"{name}={type(module).__name__} has lazy parameters without shapes; run a batch through it first"
        )
    if any(p.is_meta for p in parameters):
        raise ValueError(
            f"{name}={type(module).__name__} has parameters on the meta device, without numbers; give "
            "it its weights first"
        )
    try:
        copied = copy.deepcopy(module)
    except Exception as error:
        raise ValueError(
            f"{name}={type(module).__name__} cannot be copied ({type(error).__name__}: {error}), and a "
            "copy is what is trained; modules with the older torch.nn.utils.weight_norm are such, those of "
            "torch.nn.utils.parametrizations are not"
        ) from error
    return copied.cpu().float()


@dataclass(frozen=True)
class GivenBackbone:
    """A backbone that a user has handed over, as `BackboneSettings` are one by name.

    Args:
        module: from images (batch, 3, height, width) to features; it is copied and stays as it is.
        crop_size: side in pixels of the images that its output is tried on.
        seed: of torch's generator, for what is drawn after the copy.
    """

    module: nn.Module
    crop_size: int
    seed: int = 0
    name: str = GIVEN
    stem: Stem = "stock"

    @cached_property
    def _read(self) -> nn.Module:
        network = copy_module(self.module, "model")
        if not any(p.requires_grad for p in network.parameters()):
            raise ValueError(
                f"model={type(network).__name__} has no parameters to train"
                + ("; all are frozen" if list(network.parameters()) else "")
            )
        return read_as_features(network, self.crop_size)

    def __str__(self) -> str:
        read = self._read
        features = read.reading if isinstance(read, FeatureReader) else "its output"
        kind, dim = type(plain_network(read)).__name__, feature_dim(read, self.crop_size)
        words = f"backbone: a copy of the {kind} that was handed over; features: {features}, {dim:,} numbers"
        head = _find_head(plain_network(read), dim)
        if head is not None:
            words += (
                f". Its last layer {head!r} looks like a classifier: if these are classes, set it to "
                "torch.nn.Identity() (timm: num_classes=0)"
            )
        return words

    def create(self) -> nn.Module:
        """A new copy with the module's weights, from images to (batch, dim), on the CPU.

        Raises ValueError as `copy_module` and `read_as_features`, and for a module without parameters to
        train.
        """
        network = copy.deepcopy(self._read)
        torch.manual_seed(self.seed)
        return network
