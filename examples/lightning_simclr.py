"""SimCLR as a LightningModule, with Orthogonal-LARS and a schedule.

    python examples/lightning_simclr.py

Needs lightly and pytorch-lightning; takes a minute on one CPU core. Two lines change in
`configure_optimizers` of such a module:

    +from sslortho.optim import OrthLARS, param_groups
    -optimizer = torch.optim.SGD(self.parameters(), lr=0.06)
    +optimizer = OrthLARS(param_groups(self, orth="conv", lr_biases=0.005), lr=6.0)

With the newer package `lightning`, write `import lightning.pytorch as pl`. Lightning clips gradients
before the orthonormalisation, which undoes the clipping of the orthonormalised weights: do not set
`gradient_clip_val`.

Prints the kNN accuracy on the features of the test images, before and after training.
"""

import argparse
import logging
import warnings

import pytorch_lightning as pl
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms.simclr_transform import SimCLRTransform
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision.models.resnet import BasicBlock, ResNet

from digit_images import DigitImages
from lightly_simclr import measure_knn_accuracy
from sslortho.optim import OrthLARS, param_groups


class SimCLR(pl.LightningModule):
    """A ResNet of four blocks, half a ResNet-18, and a projection head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet(BasicBlock, [1, 1, 1, 1])
        self.backbone.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        self.projection_head = SimCLRProjectionHead(512, 512, 128)
        self.criterion = NTXentLoss()
        self.losses: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.projection_head(self.backbone(x))

    def training_step(self, batch: tuple[list[Tensor], Tensor], batch_idx: int) -> Tensor:
        (x0, x1), _ = batch
        loss = self.criterion(self(x0), self(x1))
        self.losses.append(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        print(f"epoch {self.current_epoch}: loss {torch.stack(self.losses).mean():.3f}")
        self.losses.clear()

    def configure_optimizers(self) -> dict:  # pyright: ignore[reportIncompatibleMethodOverride]
        optimizer = OrthLARS(param_groups(self, orth="conv", lr_biases=0.005), lr=6.0)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="SimCLR with Lightning and Orthogonal-LARS")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--subset", type=int, help="number of training images; default: all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning's own warning, on newer torch
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)  # its greetings and tips
    torch.manual_seed(args.seed)

    model = SimCLR()
    untrained = measure_knn_accuracy(model.backbone)

    # no flips and no small crops: they turn a digit into another one
    transform = SimCLRTransform(input_size=32, min_scale=0.5, gaussian_blur=0.0, hf_prob=0.0)
    dataset = DigitImages(transform=transform)
    dataset = Subset(dataset, range(args.subset or len(dataset)))
    loader = DataLoader(dataset, args.batch_size, shuffle=True, drop_last=True)

    trainer = pl.Trainer(
        max_epochs=args.epochs,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, loader)

    trained = measure_knn_accuracy(model.backbone)
    print(f"kNN accuracy on test digits: untrained {untrained:.1f} %, trained {trained:.1f} %")


if __name__ == "__main__":
    main()
