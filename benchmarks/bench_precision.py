"""Time training steps in bfloat16 beside float32 on this CPU: `python benchmarks/bench_precision.py`.

A step is a forward and a backward pass of random images in channels-last order, without loader and
optimizer. The precisions take turns, and each figure is the best of the rounds.
"""

import argparse
import time

import torch
from torch import nn

from sslortho.models import create_backbone
from sslortho.models.backbones import Stem

CASES: tuple[tuple[str, Stem, int, int], ...] = (
    ("resnet20", "stock", 32, 256),
    ("resnet18", "small", 32, 64),
    ("resnet18", "stock", 96, 64),
    ("resnet50", "stock", 96, 32),
    ("densenet121", "stock", 64, 32),
    ("vit_small_32", "stock", 32, 256),
    ("timm:vit_tiny_patch16_224", "stock", 224, 16),
    ("timm:regnety_004", "stock", 96, 64),
    ("timm:convnext_atto", "stock", 96, 32),
    ("timm:efficientnet_b0", "stock", 96, 32),
    ("timm:mobilenetv3_small_100", "stock", 96, 64),
)
"""Network, stem, side of the images in pixels, and number of images."""

ROUNDS = 3


def measure(network: nn.Module, images: torch.Tensor, bf16: bool) -> float:
    """Seconds of a step."""
    began = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = network(images).float().square().mean()
    loss.backward()
    network.zero_grad()
    return time.perf_counter() - began


def main() -> None:
    """Print a row of a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's own number")
    names = [case[0] for case in CASES]
    parser.add_argument("--networks", nargs="+", choices=names, default=names, metavar="NAME")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    print("| network | images of | float32, images/s | bfloat16, images/s | ratio |")
    print("|---|---|---|---|---|")
    for name, stem, side, batch in CASES:
        if name not in given.networks:
            continue
        network = create_backbone(name, stem, seed=0).to(memory_format=torch.channels_last).train()
        images = torch.randn(batch, 3, side, side).to(memory_format=torch.channels_last)
        seconds = {False: [], True: []}
        for _ in range(ROUNDS + 1):
            for bf16, found in seconds.items():
                found.append(measure(network, images, bf16))
        plain, half = (min(found[1:]) for found in seconds.values())  # the first one is slower
        rates = f"{batch / plain:.0f} | {batch / half:.0f} | {plain / half:.2f}"
        print(f"| {name} | {side} pixels | {rates} |", flush=True)


if __name__ == "__main__":
    main()
