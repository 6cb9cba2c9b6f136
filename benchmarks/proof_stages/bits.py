"""Whether two trainings of the same seed end with the same bits on this device."""

import shutil
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

import sslortho

from .context import Context, PartialError


def compare(context: Context, deterministic: bool) -> dict[str, Any]:
    """Train twice and compare all weights.

    Args:
        context: of the proof.
        deterministic: whether torch is held to operations that give the same bits.

    Raises PartialError if it is, and they are not the same.
    """
    count = 16 if context.small else 4096
    data = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    found = [_train(context, data, deterministic, turn) for turn in range(2)]
    first, second = found
    same = all(torch.equal(first[name], second[name]) for name in first)
    largest = max(
        float((first[name].double() - second[name].double()).abs().max()) for name in first
    )
    figures = {"same_bits": same, "largest_difference": largest, "deterministic": deterministic}
    if deterministic and not same:
        raise PartialError("two trainings with --deterministic ended with other bits", figures)
    return figures


def _train(context: Context, data: Any, deterministic: bool, turn: int) -> dict[str, Any]:
    folder = context.work / "bits" / f"{deterministic}-{turn}"
    shutil.rmtree(folder, ignore_errors=True)
    sslortho.pretrain(
        data,
        "basic_cnn" if context.small else "resnet18",
        out=folder,
        crop_size=16 if context.small else 32,
        batch_size=4 if context.small else 256,
        projector="8-8" if context.small else "512-512",
        epochs=1 if context.small else 2,
        warmup_epochs=0,
        deterministic=deterministic,
        mixed_precision="no" if context.small else "bf16",
        evaluate_every=0,
        linear_probe=False,
        trackers="none",
        announce=False,
    )
    return load_file(str(folder / "backbone.safetensors"))
