"""A plain PyTorch loop with Orthogonal-SGDM.

    python examples/plain_pytorch.py

Needs torch and torchvision. Two lines differ from the same loop with torch's SGD:

    +from sslortho.optim import OrthSGD, param_groups
    -optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    +optimizer = OrthSGD(param_groups(model), lr=0.01, momentum=0.9, weight_decay=5e-4)

`param_groups` takes the model, because it tells layers apart by their modules: norms and biases keep
their raw gradients and have no weight decay.
"""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms.functional import to_tensor

from digit_images import DigitImages
from sslortho.optim import OrthSGD, param_groups


def create_model() -> nn.Sequential:
    """Three convolutions with batch norm, and a head for ten classes."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def main() -> None:
    parser = argparse.ArgumentParser(description="Plain PyTorch and Orthogonal-SGDM")
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    train = DataLoader(DigitImages(train=True, transform=to_tensor), 64, shuffle=True)
    test = DataLoader(DigitImages(train=False, transform=to_tensor), 360)
    model = create_model().to(device)
    optimizer = OrthSGD(param_groups(model), lr=0.01, momentum=0.9, weight_decay=5e-4)

    for epoch in range(args.epochs):
        total_loss = 0.0
        for images, labels in train:
            loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total_loss += loss.item()
        print(f"epoch {epoch}: loss {total_loss / len(train):.3f}")

    model.eval()
    images, labels = next(iter(test))
    with torch.no_grad():
        correct = model(images.to(device)).argmax(1).cpu() == labels
    print(f"accuracy on test digits: {100 * correct.float().mean():.1f} %")


if __name__ == "__main__":
    main()
