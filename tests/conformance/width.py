"""A small real problem at several widths: handwritten digits, three dense layers, a fixed head."""

from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from conformance.adapter import Option

STEPS, BATCH = 30, 256
RATES = [2.0**power for power in range(-6, -1)]


def network(width: int) -> nn.Module:
    """Dense layers without biases, so that all that is trained is a matrix, and a fixed readout.

    The readout's entries shrink with the width and not with its root: the spectral condition for rates
    that do not depend on the width (arXiv 2310.17813, section 3).
    """
    model = nn.Module()
    layers = [nn.Linear(64, width, bias=False)]
    layers += [nn.Linear(width, width, bias=False) for _ in range(2)]
    model.body = nn.ModuleList(layers)
    model.head = nn.Linear(width, 10, bias=False).requires_grad_(False)
    for layer in layers:  # He initialisation (arXiv 1502.01852)
        nn.init.normal_(layer.weight, std=(2 / layer.in_features) ** 0.5)
    nn.init.normal_(model.head.weight, std=4 / width)
    return model


def loss_of(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    for layer in model.body:
        images = functional.relu(layer(images))
    return functional.cross_entropy(model.head(images), labels)


def final_loss(option: Option, width: int, rate: float, data: tuple[Tensor, Tensor]) -> float:
    """Mean loss over all images after training; 100 where training diverged."""
    images, labels = data
    torch.manual_seed(0)
    model = network(width)
    optimizer = option.build(model, rate)
    order = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        batch = torch.randint(len(images), (BATCH,), generator=order)
        for layer in model.body:
            layer.weight.grad = None
        loss_of(model, images[batch], labels[batch]).backward()
        optimizer.step()
    loss = loss_of(model, images, labels).item()
    return min(loss, 100.0) if loss == loss else 100.0


def best_rates(option: Option, widths: Sequence[int]) -> list[float]:
    """The rate of the lowest final loss at each width, between the rates of the grid by a parabola."""
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    data = (images - images.mean()) / images.std(), torch.tensor(digits.target)
    found = []
    for width in widths:
        curve = torch.tensor([final_loss(option, width, rate, data) for rate in RATES]).log()
        best = int(curve.argmin())
        assert 0 < best < len(RATES) - 1, f"best rate at the grid's edge: {curve.tolist()}"
        low, middle, high = curve[best - 1 : best + 2].tolist()
        shift = 0.5 * (low - high) / (low - 2 * middle + high)
        found.append(RATES[best] * 2**shift)
    return found
