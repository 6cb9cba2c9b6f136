"""Linear classifiers: that of linear evaluation, and that of training from scratch."""

from pathlib import Path

from safetensors.torch import save
from torch import nn

from sslortho.atomic import atomic_file
from sslortho.models.backbones import CIFAR_RESNETS
from sslortho.models.cifar_resnet import kaiming_linear


def linear_classifier(dim: int, classes: int) -> nn.Linear:
    """Features (batch, dim) to logits (batch, classes): weights from N(0, 0.01^2), biases 0.

    As facebookresearch/barlowtwins, evaluate.py.
    """
    classifier = nn.Linear(dim, classes)
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
    return classifier


def initial_classifier(backbone_name: str, dim: int, classes: int) -> nn.Linear:
    """Features (batch, dim) to logits (batch, classes), on a backbone that is trained from scratch.

    Weights are Kaiming-normal on our CIFAR residual networks, as all of these is, and otherwise
    torch's default; so are biases, but for 0 on densenets, as torchvision has it.
    """
    if backbone_name in CIFAR_RESNETS:
        return kaiming_linear(dim, classes)
    classifier = nn.Linear(dim, classes)
    if backbone_name.startswith("densenet"):
        nn.init.zeros_(classifier.bias)
    return classifier


def write_classifier(classifier: nn.Linear, path: Path) -> None:
    """Write "weight" (classes, dim) and "bias" (classes,) as safetensors."""
    state = {k: v.detach().cpu().contiguous() for k, v in classifier.state_dict().items()}
    with atomic_file(path) as file:
        file.write(save(state))
