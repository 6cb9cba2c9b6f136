"""Accelerate with FSDP2 on orthonormal gradients: parameters, gradients and momentum split among ranks.

    torchrun --nproc_per_node 2 scripts/examples/accelerate_fsdp2.py

on GPUs, or on two processes of one CPU. To such a script, two lines:

    +from sslortho.optim import OrthSGD, param_groups
    -optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    +optimizer = OrthSGD(param_groups(model), lr=0.05, momentum=0.9)

Call `param_groups` before `accelerator.prepare`, which swaps the parameters of each group for sharded
ones and leaves the rest of the group as it is. A step gathers each gradient, takes its polar factor on
every rank, and cuts it again, so any number of ranks makes the steps of one: --compare, in float64, also
trains an unsharded copy on all the images and says how far apart the weights are, over the way they
came.

Needs accelerate >= 1.6 and, on CPUs, torch >= 2.7.
"""

import argparse
import copy
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from digit_images import DigitImages
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Subset
from torchvision.transforms.functional import to_tensor

from sslortho.optim import OrthSGD, param_groups


def make_accelerator() -> Accelerator:
    """One that shards, on GPUs or CPUs."""
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, reshard_after_forward=True)
    on_cpu = not torch.cuda.is_available()
    accelerator = Accelerator(cpu=on_cpu, fsdp_plugin=plugin)
    if on_cpu and accelerator.num_processes > 1:
        # Accelerate heeds the plugin on GPUs and their like alone, and makes DDP of CPU ranks without
        # a word; told that this is FSDP, it shards on CPUs as well. Not needed on GPUs.
        PartialState().distributed_type = DistributedType.FSDP
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
    if not accelerator.is_fsdp2:
        raise SystemExit("start it on several ranks: torchrun --nproc_per_node 2 ...")
    return accelerator


def make_model() -> nn.Module:
    """A small convolutional network with group norm, whose numbers do not depend on the other images."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.GroupNorm(4, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def make_optimizer(model: nn.Module) -> Optimizer:
    """The two lines."""
    return OrthSGD(param_groups(model), lr=0.05, momentum=0.9)


def make_loader(batch_size: int, seed: int, subset: int | None) -> DataLoader:
    """Training digits in an order that the seed gives."""
    dataset = DigitImages(transform=to_tensor)
    dataset = Subset(dataset, range(subset or len(dataset)))
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(dataset, batch_size, shuffle=True, drop_last=True, generator=generator)


def train(model: nn.Module, optimizer: Optimizer, loader: Any, epochs: int, backward: Any) -> float:
    """Train on cross-entropy; the mean loss of the last epoch, on this rank's images."""
    device = next(model.parameters()).device
    losses: list[Tensor] = []
    for _ in range(epochs):
        losses.clear()
        for images, labels in loader:
            loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
            backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
    return float(torch.stack(losses).mean())


def difference(model: nn.Module, other: nn.Module, start: nn.Module) -> float:
    """Distance between the weights of two models, over the way that the second came from `start`."""
    apart, moved = torch.zeros(()), torch.zeros(())
    for p, q, r in zip(model.parameters(), other.parameters(), start.parameters(), strict=True):
        whole = p.full_tensor() if isinstance(p, DTensor) else p
        apart += (whole - q).detach().square().sum().cpu()
        moved += (q - r).detach().square().sum().cpu()
    return float((apart / moved).sqrt())


@torch.no_grad()
def accuracy(model: nn.Module, device: torch.device) -> float:
    """Per cent of the test digits; every rank must call it, and sees them all."""
    loader = DataLoader(DigitImages(train=False, transform=to_tensor), batch_size=360)
    images, labels = next(iter(loader))
    return 100 * float((model(images.to(device)).argmax(1).cpu() == labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="Accelerate with FSDP2 and Orthogonal-SGDM")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=64, help="of all ranks together")
    parser.add_argument("--subset", type=int, help="images to train on; all without")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", action="store_true", help="with training on one rank")
    args = parser.parse_args()

    if args.compare:
        torch.set_default_dtype(torch.float64)  # rounding grows in training
    accelerator = make_accelerator()
    ranks = accelerator.num_processes
    if args.batch_size % ranks:
        raise SystemExit(f"--batch_size {args.batch_size} must be a multiple of the {ranks} ranks")
    torch.manual_seed(args.seed)
    model = make_model()
    start = copy.deepcopy(model).to(accelerator.device)
    optimizer = make_optimizer(model)
    loader = make_loader(args.batch_size // ranks, args.seed, args.subset)

    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    untrained = accuracy(model, accelerator.device)
    loss = train(model, optimizer, loader, args.epochs, accelerator.backward)
    trained = accuracy(model, accelerator.device)
    accelerator.print(f"loss of the last epoch on {ranks} ranks: {loss:.3f}")
    accelerator.print(
        f"accuracy on test digits: untrained {untrained:.1f} %, trained {trained:.1f} %"
    )

    if args.compare:
        alone = copy.deepcopy(start)
        batches = make_loader(args.batch_size, args.seed, args.subset)
        train(alone, make_optimizer(alone), batches, args.epochs, Tensor.backward)
        accelerator.print(
            f"weights differ from one rank's by {difference(model, alone, start):.1e}"
        )
    accelerator.end_training()


if __name__ == "__main__":
    main()
