"""Parts of a training: the optimizer's step, and checkpoints."""

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import nn

from sslortho.optim import OrthLARS, param_groups
from sslortho.train.checkpoint import CheckpointFolder

from .part import Part, Work

MIB = 1 << 20

NETWORKS = ("resnet18", "resnet50", "vit_b_16", "vit_l_16")
"""torchvision's, from the smallest to the largest."""


def _create(name: str) -> nn.Module:
    import torchvision

    return torchvision.models.get_model(name)


@cache
def count_flops(name: str) -> int:
    """Products of one multiplication of each matrix by its own square: rows x columns x the shorter side.

    All methods of orthonormalisation take some multiple of it. A convolution's matrix has a row for each
    output channel.
    """
    with torch.device("meta"):
        model = _create(name)
    matrices = [p.flatten(1) for p in model.parameters() if p.ndim > 1]
    return sum(m.numel() * min(m.shape) for m in matrices)


def _step(names: tuple[str, ...]) -> Callable[[int, Path], Work]:
    def prepare(size: int, place: Path) -> Work:
        name = next(name for name in names if count_flops(name) == size)
        model = _create(name)
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer = OrthLARS(param_groups(model), lr=0.1)
        return optimizer.step

    return prepare


def _state(size: int) -> dict[str, object]:
    """A state of `size` bytes in 50 tensors."""
    return {"weights": {str(i): torch.rand(size // 200) for i in range(50)}, "config": {}}


def _save(size: int, place: Path) -> Work:
    state = _state(size)

    def work() -> None:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            CheckpointFolder(Path(folder)).save(state, 1)

    return work


def _load(size: int, place: Path) -> Work:
    folder = place / f"checkpoint_{size}"
    folder.mkdir(exist_ok=True)
    checkpoints = CheckpointFolder(folder)
    if not checkpoints.list():
        checkpoints.save(_state(size), 1)
    return checkpoints.load_latest


BYTES, QUICK_BYTES = (10 * MIB, 50 * MIB, 200 * MIB, 800 * MIB), (4 * MIB, 16 * MIB, 64 * MIB)
VIT_L = 304_326_632 * 8
"""A checkpoint of ViT-L trained by LARS: float32 weights, and as many entries of momentum."""


def training_parts() -> dict[str, Part]:
    """Parts of a training by name."""
    flops = tuple(map(count_flops, NETWORKS))
    what = f"take a step of OrthLARS: {', '.join(NETWORKS)}"
    return {
        "optimizer_step": Part(what, "products", _step(NETWORKS), flops, flops[:2], flops[-1]),
        "checkpoint_save": Part("save a checkpoint", "bytes", _save, BYTES, QUICK_BYTES, VIT_L),
        "checkpoint_load": Part(
            "check and load a checkpoint", "bytes", _load, BYTES, QUICK_BYTES, VIT_L
        ),
    }
