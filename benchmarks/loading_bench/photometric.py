"""Colour, blur and normalisation of crops on the device: ours beside kornia's and torchvision's."""

import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor, nn

from sslortho.augment import ViewRenderer, ViewSpec

from .kornia_pipeline import create_kornia_colours
from .libraries import create_v2_colours

BATCH_SIZE = 256
"""Images in a view: a GPU's share of a step of ImageNet training."""

REPEATS = 5
"""Batches made between two synchronisations with the device."""


def create_renderers(
    specs: tuple[ViewSpec, ViewSpec], crops: Tensor
) -> dict[str, Callable[[], list[Tensor]]]:
    """Functions that make both views of `crops`: uint8 (batch, 3, size, size), channels last.

    torchvision draws one set of parameters a call. "torchvision_v2" calls it for each image;
    "torchvision_v2_one_draw_a_batch" calls it once, which is faster but not the same augmentation.
    """
    ours = ViewRenderer(specs, channels_last=True)
    indices, planes = np.arange(len(crops)), crops.contiguous()
    v2 = [nn.Sequential(*create_v2_colours(spec)) for spec in specs]

    def by_image() -> list[Tensor]:
        return [torch.stack([steps(image) for image in planes]) for steps in v2]

    found: dict[str, Callable[[], list[Tensor]]] = {
        "ours": lambda: [ours.finish(view, crops, indices, 0) for view in range(2)],
        "torchvision_v2": by_image,
        "torchvision_v2_one_draw_a_batch": lambda: [steps(planes) for steps in v2],
    }
    if find_spec("kornia"):
        kornia = [nn.Sequential(*create_kornia_colours(spec)).to(crops.device) for spec in specs]
        found["kornia"] = lambda: [steps(planes / 255) for steps in kornia]
    return found


def time_photometric(
    specs: tuple[ViewSpec, ViewSpec],
    device: torch.device,
    batch_size: int = BATCH_SIZE,
    rounds: int = 5,
) -> dict[str, float]:
    """Images (one a view) per second of each renderer: medians of rounds in which they take turns."""
    size = specs[0].crop_size
    pixels = torch.randint(0, 256, (batch_size, size, size, 3), dtype=torch.uint8)
    found = create_renderers(specs, pixels.to(device).permute(0, 3, 1, 2))
    seconds: dict[str, list[float]] = {name: [] for name in found}
    with torch.no_grad():
        for round_ in range(rounds + 1):  # the first compiles
            for name, render in found.items():
                took = _seconds(render, device)
                if round_:
                    seconds[name].append(took)
    images = REPEATS * len(specs) * batch_size
    return {name: images / statistics.median(took) for name, took in seconds.items()}


def _seconds(render: Callable[[], list[Tensor]], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(REPEATS):
        render()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
