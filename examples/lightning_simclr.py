"""SimCLR as a LightningModule, on the gradients of Orthogonal-LARS, with a schedule.

    python scripts/examples/lightning_simclr.py

In `configure_optimizers` of such a module, two lines:

    +from sslortho.optim import OrthLARS, param_groups
    -optimizer = torch.optim.SGD(self.parameters(), lr=0.06)
    +optimizer = OrthLARS(param_groups(self, orth="conv"), lr=6.0, weight_decay=1e-6)

With the newer package it reads `import lightning.pytorch as pl`. Lightning clips gradients before they are
orthonormalised, which undoes the clipping of the weights that `param_groups` picks: leave
`gradient_clip_val` out.

A minute on a CPU core. Ends with the accuracy of a kNN on the features of the test images, before and
after training.
"""

import argparse
import logging
import warnings

import pytorch_lightning as pl
import torch
from digit_images import DigitImages
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms.simclr_transform import SimCLRTransform
from lightly_simclr import knn_accuracy
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision.models.resnet import BasicBlock, ResNet

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
        optimizer = OrthLARS(param_groups(self, orth="conv"), lr=6.0, weight_decay=1e-6)
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
    parser.add_argument("--subset", type=int, help="images to train on; all without")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning's own, on newer torch
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)  # its greetings and tips
    torch.manual_seed(args.seed)

    model = SimCLR()
    untrained = knn_accuracy(model.backbone)

    # a mirrored digit is another digit, and so is a small part of one
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

    trained = knn_accuracy(model.backbone)
    print(f"kNN accuracy on test digits: untrained {untrained:.1f} %, trained {trained:.1f} %")


if __name__ == "__main__":
    main()
