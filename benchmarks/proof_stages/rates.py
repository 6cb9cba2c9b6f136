"""Images a second of whole trainings, loader and all, as `sslortho.pretrain` runs them."""

import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import sslortho
from sslortho.data.folder_walk import IMAGE_SUFFIXES
from sslortho.train.records import read_metrics

from .context import Context

PHOTOGRAPH = (500, 375)
"""Width and height of the pictures of noise: ImageNet's most frequent size."""


def measure(context: Context, backbone: str, size: int, optim: str) -> dict[str, Any]:
    """Rate of a training: the median of its records, without the first ones.

    Args:
        context: of the proof.
        backbone: network by name.
        size: side of the views in pixels; small ones come from images in memory, large ones from files.
        optim: optimizer by name.
    """
    data, origin = _make_small(context) if size <= 64 else _find_files(context)
    if context.small:
        backbone, size = "basic_cnn", 16
    folder = context.work / "rates" / f"{backbone}-{optim}"
    shutil.rmtree(folder, ignore_errors=True)  # a rate is not gone on with
    result = sslortho.pretrain(
        data,
        backbone,
        out=folder,
        optim=optim,
        crop_size=size,
        batch_size=4 if context.small else 256,
        epochs=2,
        warmup_epochs=1,
        lr=1e-3,
        projector="8-8" if context.small else "2048-2048-2048",
        mixed_precision="no" if context.small else "bf16",
        evaluate_every=0,
        linear_probe=False,
        log_every=2 if context.small else 10,
        trackers="none",
        announce=False,
        threads=1 if context.small else None,
    )
    records = read_metrics(folder / "metrics.jsonl", ["images_per_second"])
    found = (record.get("images_per_second") for record in records)
    rates = [float(rate) for rate in found if rate]
    usual = rates[len(rates) // 3 :]  # the first ones compile, and fill caches
    kept = {n: v for n, v in result.summary.items() if n in ("peak_memory_gib", "time_shares")}
    return {
        "images_per_second": statistics.median(usual),
        "slowest": min(usual),
        "fastest": max(usual),
        "records": len(usual),
        "images": origin,
        **kept,
    }


def _make_small(context: Context) -> tuple[Any, str]:
    """Noise of CIFAR-10's shape and number: (n, 32, 32, 3) uint8, in memory."""
    count = 16 if context.small else 50_000
    return np.random.default_rng(0).integers(
        0, 256, (count, 32, 32, 3), np.uint8
    ), f"{count:,} of noise, 32 pixels, in memory"


def _find_files(context: Context) -> tuple[list[Path], str]:
    """Photographs, each as often as it takes for some seconds of training."""
    wanted = 16 if context.small else 20_000
    origin = "JPEGs of noise, 500 x 375"
    if context.options.photographs is not None:
        root = Path(context.options.photographs)
        paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        origin = "photographs"
        if not paths:
            raise ValueError(f"photographs={str(root)!r} holds no images")
    else:
        paths = _draw_noise(context.work / "noise", 2 if context.small else 100)
    names = _repeat(paths, wanted, context.work / "photographs")
    return names, f"{len(paths)} {origin}, as {len(names):,} files"


def _draw_noise(folder: Path, count: int) -> list[Path]:
    """Blurred noise as JPEGs of quality 90, about as large as photographs of that size."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    paths = [folder / f"{i}.jpg" for i in range(count)]
    for path in paths:
        coarse = generator.integers(0, 256, (PHOTOGRAPH[1] // 4, PHOTOGRAPH[0] // 4, 3), np.uint8)
        Image.fromarray(coarse).resize(PHOTOGRAPH, Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


def _repeat(paths: list[Path], wanted: int, folder: Path) -> list[Path]:
    """Links to the files until there are as many as wanted, in one folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    links = [folder / f"{i:06}{paths[i % len(paths)].suffix}" for i in range(wanted)]
    for i, link in enumerate(links):
        link.symlink_to(paths[i % len(paths)].resolve())
    return links
