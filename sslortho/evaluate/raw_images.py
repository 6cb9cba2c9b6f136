"""A backbone that takes raw images: its preprocessing and its features of them as attributes."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from sslortho.augment.views import IMAGENET_MEAN, IMAGENET_STD
from sslortho.data.loading import evaluation_batch
from sslortho.data.preprocessing import Preprocessing, list_images
from sslortho.models.network_facts import USUAL_SIZE, evaluation_mode, required_size
from sslortho.models.weights import pretraining_of


@dataclass(frozen=True, eq=False)
class ImageEmbedding:
    """Features of raw images by a network: `model.embed(images)`."""

    network: nn.Module

    def __call__(self, images: Any, batch_size: int | None = None) -> Tensor:
        """Features float32 (n, dim) on the device of the network, which is in evaluation mode meanwhile.

        Args:
            images: one image, or a list of n, each as `Preprocessing` takes it; or pixels of n, a uint8 array
                (n, height, width, channels) or tensor (n, channels, height, width).
            batch_size: images that pass the network at a time. Default: as evaluations.

        Raises ValueError as `Preprocessing`.
        """
        preprocess: Preprocessing = cast(Any, self.network).preprocess
        return embed_images(self.network, preprocess, images, batch_size)


def embed_images(
    network: nn.Module, preprocess: Preprocessing, images: Any, batch_size: int | None = None
) -> Tensor:
    """Features of raw images by a network; see `ImageEmbedding`."""
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    size = batch_size
    if size is None:
        size = evaluation_batch(preprocess.crop_size, device)
    if size < 1:
        raise ValueError(f"batch_size={batch_size} must be 1 or more")
    listed = list_images(images)
    if not listed:
        raise ValueError("images holds none; give one or more")
    parts = []
    with evaluation_mode(network), torch.no_grad():
        for first in range(0, len(listed), size):
            views = torch.stack([preprocess(image) for image in listed[first : first + size]])
            parts.append(network(views.to(device)).float())
    return torch.cat(parts)


class Backbone(nn.Module):
    """Network from normalised images (batch, 3, height, width) to features (batch, dim) that takes raw ones.

    `load_backbone` gives the network as it is, a ResNet of torchvision say, with these two attributes: its
    class, its layers and the names in its state dict are the network's own.
    """

    preprocess: Preprocessing
    """From an image to a tensor (3, crop_size, crop_size) for the network; the class says the pixels."""
    embed: ImageEmbedding
    """From raw images to features (n, dim)."""


def with_preprocessing(network: nn.Module) -> Backbone:
    """The same network, with the attributes of `Backbone`.

    Size and normalisation are those of its pretraining; where it does not know them, the size is what it
    requires or 224, and the normalisation ImageNet's. A network that has an attribute of one of these names
    keeps its own.
    """
    info = pretraining_of(network)
    if info is None:
        size = required_size(network) or USUAL_SIZE
        chosen = Preprocessing(crop_size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD, guessed=True)
    else:
        chosen = Preprocessing(crop_size=info.crop_size, mean=info.mean, std=info.std)
    if not hasattr(network, "preprocess") and not hasattr(network, "embed"):
        vars(network).update(preprocess=chosen, embed=ImageEmbedding(network))
    return cast(Backbone, network)
