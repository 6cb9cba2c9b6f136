"""Networks, and the gradients of theirs that the methods orthonormalise."""

import torch
import torchvision
from sklearn.datasets import load_digits
from torch import Tensor, nn

from sslortho.optim import param_groups

from .options import BenchOptimOptions


def create_model(name: str, image_size: int, device: torch.device) -> nn.Module:
    """A torchvision network for ten classes; vision transformers take the image size."""
    options = {"image_size": image_size} if name.startswith("vit") else {}
    torch.manual_seed(0)
    return torchvision.models.get_model(name, num_classes=10, **options).to(device)


def has_attention(model: nn.Module) -> bool:
    """Whether a network is a transformer."""
    return any(isinstance(module, nn.MultiheadAttention) for module in model.modules())


def group_parameters(model: nn.Module) -> list[dict]:
    """Groups that orthonormalise the convolutions, as pretraining does; every matrix of a
    transformer."""
    return param_groups(model, orth="all" if has_attention(model) else "conv")


def select_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters whose gradients are orthonormalised."""
    return [p for group in group_parameters(model) if group["orth"] for p in group["params"]]


def train_on_digits(model: nn.Module, options: BenchOptimOptions, device: torch.device) -> None:
    """Train for `options.training_steps` steps of SGD on upscaled digits; leaves the next step's gradients."""
    pixels, targets = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8).expand(-1, 3, -1, -1) / 16
    labels = torch.tensor(targets)
    transformer = has_attention(model)
    size = options.side if transformer else 64
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for step in range(options.training_steps + 1):
        chosen = torch.randint(len(images), (16 if transformer else 64,), generator=generator)
        batch = nn.functional.interpolate(images[chosen], size=size, mode="bilinear").to(device)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch), labels[chosen].to(device)).backward()
        if step < options.training_steps:
            optimizer.step()


def draw_with_spectrum(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """A tensor whose matrix (shape[0], the rest) has singular values from 1 to 1e-3."""
    rows, columns = shape[0], shape[1:].numel()
    small = min(rows, columns)
    u, v = (
        torch.linalg.qr(torch.randn(side, small, generator=generator))[0]
        for side in (rows, columns)
    )
    return ((u * torch.logspace(0, -3, small)) @ v.mT).view(shape)


def create_gradients(
    model: nn.Module,
    parameters: list[nn.Parameter],
    options: BenchOptimOptions,
    device: torch.device,
) -> list[Tensor]:
    """One gradient a parameter, of the kind that `options.gradients` names."""
    generator = torch.Generator().manual_seed(0)
    if options.gradients == "real":
        train_on_digits(model, options, device)
        return [p.grad.clone() for p in parameters if p.grad is not None]
    draw = draw_with_spectrum if options.gradients == "spectrum" else None
    return [
        (draw(p.shape, generator) if draw else torch.randn(p.shape, generator=generator)).to(device)
        for p in parameters
    ]
