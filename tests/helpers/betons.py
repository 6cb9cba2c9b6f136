"""Image files, their betons, and loaders of both, for tests of betons."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sslortho.augment import ViewRenderer, create_views
from sslortho.data import EpochOrder, ImageFiles, ViewLoader
from sslortho.data.beton.writer import write_beton

CPU = torch.device("cpu")
COUNT, BATCH, SEED, SIDE = 40, 12, 3, 24
PAIR = create_views("barlow_twins", SIDE)
RENDERER = ViewRenderer(PAIR, seed=SEED, channels_last=True)
SIZES = (24, 9, 31, 9)
VIEWS_OF_SIZES = tuple(replace(PAIR[1], crop_size=s, blur_p=0.5, blur_taps=9) for s in SIZES)
MIXED = ViewRenderer(VIEWS_OF_SIZES, seed=SEED, channels_last=True)


def waves(height: int, width: int, seed: int) -> np.ndarray:
    y, x = np.mgrid[0 : 5 : height * 1j, 0 : 7 : width * 1j][..., None]
    noise = np.random.default_rng(seed).normal(0, 12, (height, width, 3))
    return (128 + 90 * np.sin(y + x * np.arange(1, 4) + seed) + noise).clip(0, 255).astype(np.uint8)


def make_files(folder: Path, suffix: str) -> ImageFiles:
    """Images of many sizes in four classes."""
    folder.mkdir()
    paths = []
    for i in range(COUNT):
        paths.append(str(folder / f"{i:02}.{suffix}"))
        pixels = waves(30 + 3 * i % 41, 90 - i, i)
        options = {"quality": 88} if suffix == "jpg" else {}
        # every fifth JPEG is a grey one
        mode = "L" if suffix == "jpg" and i % 5 == 0 else "RGB"
        Image.fromarray(pixels).convert(mode).save(paths[-1], **options)
    return ImageFiles(tuple(paths), torch.arange(COUNT) % 4, tuple("abcd"))


def make_betons(new_folder) -> dict[str, tuple[ImageFiles, Path]]:
    """Image files and the folder of their beton, by mode; lossless sources for raw pixels.

    new_folder: pytest's `tmp_path_factory.mktemp`.
    """
    made = {}
    for mode, suffix in (("raw", "png"), ("jpg", "jpg"), ("smart", "png")):
        folder = new_folder(mode)
        files = make_files(folder / "files", suffix)
        write_beton(files, folder / "train.beton", mode=mode, workers=2)
        made[mode] = (files, folder)
    return made


def loader(source, renderer=RENDERER, workers=2, **ranks) -> ViewLoader:
    return ViewLoader(source, renderer, EpochOrder(COUNT, BATCH, SEED, **ranks), CPU, workers)


def collect(loader, epoch: int = 0, start_step: int = 0) -> list[tuple[torch.Tensor, ...]]:
    """Views and labels of each batch."""
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch, start_step)
    return [(*batch.views, batch.labels) for batch in loader]


def assert_same(ours, theirs) -> None:
    """That two results of `collect` are equal bit for bit."""
    assert len(ours) == len(theirs) > 0
    for batch_a, batch_b in zip(ours, theirs, strict=True):
        for a, b in zip(batch_a, batch_b, strict=True):
            assert torch.equal(a, b)
