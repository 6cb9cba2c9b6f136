"""SimCLR with lightly in plain PyTorch, with Orthogonal-LARS.

    python examples/lightly_simclr.py

Needs lightly; takes a minute on one CPU core. Two lines change in lightly's script for SimCLR, and
likewise in those for its other methods:

    +from sslortho.optim import OrthLARS, param_groups
    -optimizer = torch.optim.SGD(model.parameters(), lr=0.06)
    +optimizer = OrthLARS(param_groups(model, orth="conv", lr_biases=0.005), lr=6.0)

`param_groups` takes the model, because it tells convolutions from norms by their modules. `orth="all"`
includes the projection head. The learning rate is absolute. LARS needs another one than SGD, since it
scales each layer's step to the norm of its weights.

Prints the kNN accuracy on the features of the test images, before and after training.
"""

import argparse
import copy

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms.simclr_transform import SimCLRTransform
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Subset
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.transforms.functional import to_tensor

from digit_images import DigitImages
from sslortho.optim import OrthLARS, param_groups


class SimCLR(nn.Module):
    """A ResNet of four blocks, half a ResNet-18, and a projection head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet(BasicBlock, [1, 1, 1, 1])
        self.backbone.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        self.projection_head = SimCLRProjectionHead(512, 512, 128)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection_head(self.backbone(x))


@torch.no_grad()
def extract_features(backbone: nn.Module, train: bool) -> tuple[Tensor, Tensor]:
    """Features (images, 512) and labels (images,) of the digits, without augmentation.

    The backbone stays as it is. Batch norm of a copy takes the statistics of the training images. An untrained
    network has none of use, so without them even a learning rate of 0 would seem to improve it.
    """
    device = next(backbone.parameters()).device
    measured = copy.deepcopy(backbone)
    update_bn(DataLoader(DigitImages(True, transform=to_tensor), batch_size=256), measured, device)
    measured.eval()
    loader = DataLoader(DigitImages(train, transform=to_tensor), batch_size=256)
    batches = [(measured(images.to(device)).cpu(), labels) for images, labels in loader]
    features, labels = zip(*batches, strict=True)
    return torch.cat(features), torch.cat(labels)


def measure_knn_accuracy(backbone: nn.Module) -> float:
    """Accuracy in per cent of a kNN on the test digits: 20 neighbours by cosine similarity."""
    knn = KNeighborsClassifier(20, metric="cosine").fit(*extract_features(backbone, train=True))
    return 100 * float(knn.score(*extract_features(backbone, train=False)))


def main() -> None:
    parser = argparse.ArgumentParser(description="SimCLR with lightly and Orthogonal-LARS")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--subset", type=int, help="number of training images; default: all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = SimCLR().to(device)
    untrained = measure_knn_accuracy(model.backbone)

    # no flips and no small crops: they turn a digit into another one
    transform = SimCLRTransform(input_size=32, min_scale=0.5, gaussian_blur=0.0, hf_prob=0.0)
    dataset = DigitImages(transform=transform)
    dataset = Subset(dataset, range(args.subset or len(dataset)))
    loader = DataLoader(dataset, args.batch_size, shuffle=True, drop_last=True)
    criterion = NTXentLoss()
    optimizer = OrthLARS(param_groups(model, orth="conv", lr_biases=0.005), lr=6.0)

    for epoch in range(args.epochs):
        total_loss = 0.0
        for (x0, x1), _ in loader:
            loss = criterion(model(x0.to(device)), model(x1.to(device)))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total_loss += loss.item()
        print(f"epoch {epoch}: loss {total_loss / len(loader):.3f}")

    trained = measure_knn_accuracy(model.backbone)
    print(f"kNN accuracy on test digits: untrained {untrained:.1f} %, trained {trained:.1f} %")


if __name__ == "__main__":
    main()
