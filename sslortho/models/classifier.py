"""The linear classifier of linear evaluation."""

from pathlib import Path

from safetensors.torch import save
from torch import nn

from sslortho.atomic import atomic_file


def linear_classifier(dim: int, classes: int) -> nn.Linear:
    """Features (batch, dim) to logits (batch, classes): weights from N(0, 0.01^2), biases 0.

    As facebookresearch/barlowtwins, evaluate.py.
    """
    classifier = nn.Linear(dim, classes)
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
    return classifier


def write_classifier(classifier: nn.Linear, path: Path) -> None:
    """Write "weight" (classes, dim) and "bias" (classes,) as safetensors."""
    state = {k: v.detach().cpu().contiguous() for k, v in classifier.state_dict().items()}
    with atomic_file(path) as file:
        file.write(save(state))
