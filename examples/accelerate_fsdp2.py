"""Accelerate with FSDP2 and Orthogonal-SGDM: parameters, gradients and momentum sharded among ranks.

    torchrun --nproc_per_node 2 examples/accelerate_fsdp2.py

runs on GPUs, or in two processes on a CPU. Needs accelerate >= 1.6 and, on CPUs, torch >= 2.7. Two
lines change in such a script:

    +from sslortho.optim import OrthSGD, param_groups
    -optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    +optimizer = OrthSGD(param_groups(model), lr=0.05, momentum=0.9)

Call `param_groups` before `accelerator.prepare`: that replaces the parameters of each group by sharded
ones and keeps the group's other settings. A step gathers each gradient, computes its polar factor on
every rank, and keeps the rank's shard, so the steps do not depend on the number of ranks. --compare
checks this in float64: it also trains an unsharded copy on all the images, and prints the distance
between the weights of both over the distance from the initial weights.
"""

import argparse
import copy
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Subset
from torchvision.transforms.functional import to_tensor

from digit_images import DigitImages
from sslortho.optim import OrthSGD, param_groups


def make_accelerator() -> Accelerator:
    """An accelerator that shards, on GPUs or CPUs."""
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, reshard_after_forward=True)
    on_cpu = not torch.cuda.is_available()
    accelerator = Accelerator(cpu=on_cpu, fsdp_plugin=plugin)
    if on_cpu and accelerator.num_processes > 1:
        # On CPUs Accelerate ignores the plugin silently and uses DDP. With its type set to FSDP it
        # shards on CPUs as well. GPUs do not need this.
        PartialState().distributed_type = DistributedType.FSDP
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
    if not accelerator.is_fsdp2:
        raise SystemExit("start it on several ranks: torchrun --nproc_per_node 2 ...")
    return accelerator


def make_model() -> nn.Module:
    """A small convolutional network; group norm, so that outputs do not depend on the batch."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.GroupNorm(4, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def make_optimizer(model: nn.Module) -> Optimizer:
    """OrthSGD: the two changed lines."""
    return OrthSGD(param_groups(model), lr=0.05, momentum=0.9)


def make_loader(batch_size: int, seed: int, subset: int | None) -> DataLoader:
    """Training digits, shuffled by the seed."""
    dataset = DigitImages(transform=to_tensor)
    dataset = Subset(dataset, range(subset or len(dataset)))
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(dataset, batch_size, shuffle=True, drop_last=True, generator=generator)


def train(model: nn.Module, optimizer: Optimizer, loader: Any, epochs: int, backward: Any) -> float:
    """Train on cross-entropy; returns the last epoch's mean loss on this rank's images."""
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


def compute_difference(model: nn.Module, other: nn.Module, start: nn.Module) -> float:
    """Distance between two models' weights, over the second one's distance from `start`."""
    apart, moved = torch.zeros(()), torch.zeros(())
    for p, q, r in zip(model.parameters(), other.parameters(), start.parameters(), strict=True):
        whole = p.full_tensor() if isinstance(p, DTensor) else p
        apart += (whole - q).detach().square().sum().cpu()
        moved += (q - r).detach().square().sum().cpu()
    return float((apart / moved).sqrt())


@torch.no_grad()
def measure_accuracy(model: nn.Module, device: torch.device) -> float:
    """Accuracy on all test digits in per cent; every rank must call this."""
    loader = DataLoader(DigitImages(train=False, transform=to_tensor), batch_size=360)
    images, labels = next(iter(loader))
    return 100 * float((model(images.to(device)).argmax(1).cpu() == labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="Accelerate with FSDP2 and Orthogonal-SGDM")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument(
        "--batch_size", type=int, default=64, help="images a step, all ranks together"
    )
    parser.add_argument("--subset", type=int, help="number of training images; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", action="store_true", help="also train on one rank and compare")
    args = parser.parse_args()

    if args.compare:
        torch.set_default_dtype(torch.float64)  # training amplifies rounding
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
    untrained = measure_accuracy(model, accelerator.device)
    loss = train(model, optimizer, loader, args.epochs, accelerator.backward)
    trained = measure_accuracy(model, accelerator.device)
    accelerator.print(f"loss of the last epoch on {ranks} ranks: {loss:.3f}")
    accelerator.print(
        f"accuracy on test digits: untrained {untrained:.1f} %, trained {trained:.1f} %"
    )

    if args.compare:
        alone = copy.deepcopy(start)
        batches = make_loader(args.batch_size, args.seed, args.subset)
        train(alone, make_optimizer(alone), batches, args.epochs, Tensor.backward)
        accelerator.print(
            f"weights differ from one rank's by {compute_difference(model, alone, start):.1e}"
        )
    accelerator.end_training()


if __name__ == "__main__":
    main()
