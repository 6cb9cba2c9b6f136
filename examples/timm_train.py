"""A training script as timm's users write it, with Orthogonal-SGDM.

    python examples/timm_train.py

Needs timm. Two lines, marked below, differ from the same script with timm's own SGD:

    +import sslortho.timm
    -parser.add_argument("--opt", default="sgd")
    +parser.add_argument("--opt", default="orth_sgd")

`--opt` takes every name of timm and of `sslortho.timm`. A model with grouped convolutions, attention
heads or embeddings needs one more argument of `create_optimizer_v2`:

    param_group_fn=sslortho.optim.param_groups
"""

# timm re-exports by import, and annotates some results too widely
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportOptionalMemberAccess=false

import argparse

import timm
import torch
from timm.data import create_transform
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, accuracy, random_seed
from torch import nn
from torch.utils.data import DataLoader

import sslortho.timm  # noqa: F401  line 1 of 2
from digit_images import DigitImages


def create_test_loader() -> DataLoader:
    transform = create_transform(32, is_training=False, crop_pct=1.0)
    return DataLoader(DigitImages(train=False, transform=transform), 90)


def create_train_loader() -> DataLoader:
    # no flips: a mirrored digit is not that digit
    transform = create_transform(32, is_training=True, scale=(0.7, 1.0), hflip=0.0)
    return DataLoader(
        DigitImages(train=True, transform=transform), 64, shuffle=True, drop_last=True
    )


@torch.no_grad()
def validate(model: nn.Module, loader: DataLoader, device: str) -> float:
    """Top-1 accuracy in per cent."""
    model.eval()
    top1 = AverageMeter()
    for images, labels in loader:
        (right,) = accuracy(model(images.to(device)), labels.to(device), topk=(1,))
        top1.update(right.item(), len(labels))
    return top1.avg


def main() -> None:
    parser = argparse.ArgumentParser(description="timm and Orthogonal-SGDM")
    parser.add_argument("--model", default="test_resnet")
    parser.add_argument("--opt", default="orth_sgd")  # line 2 of 2
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--weight_decay", type=float, default=5e-4)
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    random_seed(0)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = timm.create_model(args.model, num_classes=10).to(device)
    optimizer = create_optimizer_v2(model, args.opt, lr=args.lr, weight_decay=args.weight_decay)
    scheduler, epochs = create_scheduler_v2(optimizer, "cosine", num_epochs=args.epochs)
    train, test = create_train_loader(), create_test_loader()
    print(f"{args.model}, {type(optimizer).__name__}")

    for epoch in range(epochs):
        model.train()
        losses = AverageMeter()
        for images, labels in train:
            loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(labels))
        scheduler.step(epoch + 1)
        top1 = validate(model, test, device)
        print(f"epoch {epoch}: loss {losses.avg:.3f}, accuracy on test digits {top1:.1f} %")


if __name__ == "__main__":
    main()
