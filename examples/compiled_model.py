"""A compiled model, and a compiled step of Orthogonal-SGDM.

    python examples/compiled_model.py

Needs torch and torchvision, and a C++ compiler on CPUs. Two lines differ from the same loop with
torch's SGD:

    +from sslortho.optim import OrthSGD, param_groups
    -optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    +optimizer = OrthSGD(param_groups(model), lr=0.01, momentum=0.9, weight_decay=5e-4)

The optimizer and its groups do not depend on whether the model is compiled. The step can be compiled
too, but not with `fullgraph=True`: the decompositions are not compiled, the code around them is. The
first run takes longer, because it compiles C++; later runs find it in inductor's cache.
"""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms.functional import to_tensor

from digit_images import DigitImages
from sslortho.optim import OrthSGD, param_groups


def create_model() -> nn.Sequential:
    """Two convolutions and a head for ten classes: quick to compile."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 8 * 8, 10),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="torch.compile and Orthogonal-SGDM")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--backend", default="inductor", help="backend of torch.compile")
    args = parser.parse_args()
    torch.manual_seed(0)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    train = DataLoader(
        DigitImages(train=True, transform=to_tensor), 64, shuffle=True, drop_last=True
    )
    test = DataLoader(DigitImages(train=False, transform=to_tensor), 360)
    model = create_model().to(device)
    optimizer = OrthSGD(param_groups(model), lr=0.01, momentum=0.9, weight_decay=5e-4)
    compiled = torch.compile(model, backend=args.backend)
    step = torch.compile(optimizer.step, backend=args.backend)

    for epoch in range(args.epochs):
        total_loss = 0.0
        for images, labels in train:
            loss = nn.functional.cross_entropy(compiled(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            step()
            total_loss += loss.item()
        print(f"epoch {epoch}: loss {total_loss / len(train):.3f}")

    model.eval()
    images, labels = next(iter(test))
    with torch.no_grad():
        correct = model(images.to(device)).argmax(1).cpu() == labels
    print(f"accuracy on test digits: {100 * correct.float().mean():.1f} %")


if __name__ == "__main__":
    main()
