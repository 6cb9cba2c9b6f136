"""Heads on a backbone: projectors, and linear classifiers."""

import itertools
from pathlib import Path

from safetensors.torch import save
from torch import nn

from sslortho.atomic import atomic_file
from sslortho.models.backbones import CIFAR_RESNETS
from sslortho.models.cifar_resnet import kaiming_linear


class Projector(nn.Sequential):
    """Projector of Barlow Twins (arXiv 2103.03230, section 4.1).

    Each layer is linear without bias, batch norm, ReLU; the last layer is linear alone.

    Args:
        in_dim: number of features of the backbone.
        widths: output dimension of each linear layer, one or more; for example (8192, 8192, 8192).
        bias: whether the last layer has one.

    Maps (batch, in_dim) to (batch, widths[-1]).

    Raises:
        ValueError: `in_dim` or a width is below 1, or there is no width.
    """

    def __init__(self, in_dim: int, widths: tuple[int, ...], bias: bool = False) -> None:
        if not widths or min(widths) < 1:
            raise ValueError(f"widths={widths!r} must be one or more positive integers")
        if in_dim < 1:
            raise ValueError(f"in_dim={in_dim} must be 1 or more, the features of the backbone")
        layers: list[nn.Module] = []
        dims = (in_dim, *widths)
        for before, after in itertools.pairwise(dims[:-1]):
            layers += [
                nn.Linear(before, after, bias=False),
                nn.BatchNorm1d(after),
                nn.ReLU(inplace=True),
            ]
        layers.append(nn.Linear(dims[-2], dims[-1], bias=bias))
        super().__init__(*layers)


def linear_classifier(dim: int, classes: int) -> nn.Linear:
    """Classifier of linear evaluation: weights from N(0, 0.01^2), biases 0.

    Maps (batch, dim) to logits (batch, classes). Initialised as in facebookresearch/barlowtwins,
    evaluate.py.
    """
    classifier = nn.Linear(dim, classes)
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
    return classifier


def initial_classifier(backbone_name: str, dim: int, classes: int) -> nn.Linear:
    """Classifier for training from scratch, initialised like the rest of the named network.

    Maps (batch, dim) to logits (batch, classes). Kaiming-normal weights on our CIFAR residual
    networks, otherwise torch's default. Torch's default biases, except 0 on densenets, as in
    torchvision.
    """
    if backbone_name in CIFAR_RESNETS:
        return kaiming_linear(dim, classes)
    classifier = nn.Linear(dim, classes)
    if backbone_name.startswith("densenet"):
        nn.init.zeros_(classifier.bias)
    return classifier


def write_classifier(classifier: nn.Linear, path: Path) -> None:
    """Write "weight" (classes, dim) and "bias" (classes,) as safetensors; whole or not at all."""
    state = {k: v.detach().cpu().contiguous() for k, v in classifier.state_dict().items()}
    with atomic_file(path) as file:
        file.write(save(state))
