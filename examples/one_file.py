"""A whole result in one file: Barlow Twins with Orthogonal-LARS, on handwritten digits, without labels.

    python examples/one_file.py

Two minutes on a CPU. Needs torch, scikit-learn (for the digits) and matplotlib (for the picture); of
sslortho only the optimizers. It writes one_file.png: views, and nearest neighbours.

The story: make two views of each image (1), let a network describe each (2), ask that the two
descriptions agree and that their dimensions say different things (3), step along orthonormalised
gradients (4), and look whether digits of one class have come to lie together (5).
"""

import argparse
import math
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from sslortho.optim import OrthLARS, param_groups

SIZE = 16  # pixels; the digits have 8, and a little room helps crops


# 1. Images, and two views of each ---------------------------------------------------------------------


def load_images() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images (1437, 1, 16, 16) from 0 to 1, their labels, test images (360, ...), their labels."""
    pixels, classes = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    images = F.interpolate(images, size=SIZE, mode="bilinear", align_corners=False)
    labels = torch.tensor(classes, dtype=torch.int64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[360:], order[:360]
    return images[train], labels[train], images[test], labels[test]


def draw_view(images: Tensor) -> Tensor:
    """A random view of each image: turned, moved, scaled, in other contrast, with noise.

    What views have in common is what the network can learn to keep. A flip is missing on purpose: it would
    make a mirrored 2 the same thing as a 2.
    """
    n = len(images)
    angle = (torch.rand(n) - 0.5) * math.radians(40)
    scale = 0.75 + 0.5 * torch.rand(n)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    move_x, move_y = (torch.rand(2, n) - 0.5) * 0.4
    maps = torch.stack([cos, -sin, move_x, sin, cos, move_y], dim=1).view(n, 2, 3)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    views = F.grid_sample(images, grid, align_corners=False)
    contrast = 0.6 + 0.8 * torch.rand(n, 1, 1, 1)
    return (views * contrast + 0.1 * torch.randn_like(views)).clamp(0, 1)


# 2. A network, and a projector behind it --------------------------------------------------------------


def create_backbone() -> nn.Sequential:
    """Images (batch, 1, 16, 16) to features (batch, 128); this part is kept."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 32, 1), (32, 64, 2), (64, 128, 2)):
        conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def create_projector() -> nn.Sequential:
    """Features (batch, 128) to projections (batch, 256); only the loss sees them."""
    return nn.Sequential(
        nn.Linear(128, 256, bias=False), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 256)
    )


# 3. The loss ------------------------------------------------------------------------------------------


def barlow_twins(z_a: Tensor, z_b: Tensor, weight: float = 0.005) -> Tensor:
    """The Barlow Twins loss of two batches of projections (arXiv 2103.03230, equation 1).

    The correlation of dimension i of one view with dimension j of the other should be 1 where i = j (the
    views agree) and 0 elsewhere (no two dimensions say the same). The second keeps all projections from
    becoming one point, so nothing else is needed: no negatives, no teacher.
    """
    z_a, z_b = ((z - z.mean(0)) / (z.std(0, correction=0) + 1e-5) for z in (z_a, z_b))
    correlation = z_a.T @ z_b / len(z_a)
    agree = (correlation.diagonal() - 1).square().sum()
    all_squares = correlation.square().sum()
    return agree + weight * (all_squares - correlation.diagonal().square().sum())


# 4. Training ------------------------------------------------------------------------------------------


def train(backbone: nn.Module, images: Tensor, epochs: int, batch: int = 128) -> list[float]:
    """Train on unlabelled images; the mean loss of each epoch.

    `param_groups` sorts the parameters by the layer that uses them: gradients of convolutions and dense
    layers are replaced by the nearest orthonormal matrix, U V^T of their singular value decomposition
    (arXiv 2202.07052). LARS then scales the step of each layer to the size of its weights. Norms and
    biases keep their gradients as they are, so they have a rate of their own.
    """
    projector = create_projector()
    model = nn.Sequential(backbone, projector)
    groups = param_groups(model, lr_biases=0.005)
    optimizer = OrthLARS(groups, lr=3.0, momentum=0.9, weight_decay=1e-6)
    peaks = [group["lr"] for group in optimizer.param_groups]
    steps = len(images) // batch
    total, losses = epochs * steps, []
    model.train()
    for epoch in range(epochs):
        losses.append(0.0)
        for step, chosen in enumerate(torch.randperm(len(images)).split(batch)[:steps]):
            done = epoch * steps + step
            warm_up = min(1.0, (done + 1) / steps)  # over the first epoch
            share = warm_up * 0.5 * (1 + math.cos(math.pi * done / total))
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = share * peak
            z_a, z_b = (model(draw_view(images[chosen])) for _ in range(2))
            loss = barlow_twins(z_a, z_b)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1] += loss.item() / steps
        print(f"epoch {epoch + 1}: loss {losses[-1]:.1f}")
    return losses


# 5. Was anything learnt? ------------------------------------------------------------------------------


@torch.no_grad()
def nearest(backbone: nn.Module, train: Tensor, test: Tensor, k: int) -> Tensor:
    """Indices (test images, k) of the training images whose features point the most alike."""
    backbone.eval()
    known, asked = (F.normalize(backbone(images)) for images in (train, test))
    return (asked @ known.T).topk(k).indices


def accuracy(neighbours: Tensor, train_labels: Tensor, test_labels: Tensor) -> float:
    """Percentage of test images whose class is the most frequent one among their neighbours."""
    votes = F.one_hot(train_labels[neighbours], 10).sum(1)
    return 100 * (votes.argmax(1) == test_labels).double().mean().item()


def draw(path: Path, images: Tensor, test: Tensor, neighbours: Tensor, losses: list[float]) -> None:
    """Draw images with two views of each, and test images with their nearest training images."""
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    axes = figure.subplots(6, 9)
    rows = zip(images[:6], draw_view(images[:6]), draw_view(images[:6]), strict=True)
    for i, (row, (image, a, b)) in enumerate(zip(axes, rows, strict=True)):
        found = images[neighbours[i]]
        for axis, shown in zip(row, (image, a, b, test[i], *found), strict=True):
            axis.imshow(shown.squeeze(0), cmap="gray_r", vmin=0, vmax=1)
            axis.set_axis_off()
    for column, title in enumerate(("image", "view", "view", "test image", "nearest")):
        axes[0][column].set_title(title, fontsize="small")
    figure.suptitle(f"loss {losses[0]:.0f} in the first epoch, {losses[-1]:.0f} in the last")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description="Barlow Twins and Orthogonal-LARS in one file")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("one_file.png"))
    args = parser.parse_args()
    torch.manual_seed(0)

    images, labels, test, test_labels = load_images()
    backbone = create_backbone()
    before = accuracy(nearest(backbone, images, test, 5), labels, test_labels)
    losses = train(backbone, images, args.epochs)
    neighbours = nearest(backbone, images, test, 5)
    after = accuracy(neighbours, labels, test_labels)
    draw(args.out, images, test, neighbours, losses)
    print(f"class by vote of the 5 nearest: {before:.1f} % right untrained, {after:.1f} % trained")
    print(args.out)


if __name__ == "__main__":
    main()
