"""Both loaders on a GPU beside a CPU: the same samples, the same views but for rounding."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.gpu import CPU, DEVICE, on_gpu
from PIL import Image

from sslortho.augment import ViewRenderer, create_views
from sslortho.data import EpochOrder, ImageFiles, PixelSource, TensorLoader, ViewLoader

SIZE, BATCH, SIDE = 40, 16, 24
GREY_LEVELS = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}
SPECS = tuple(
    replace(spec, solarise_p=0.0, **GREY_LEVELS)  # at whose threshold rounding decides
    for spec in create_views("barlow_twins_small", SIDE)
)


def pictures():
    """Smooth ones (SIZE, 32, 32, 3) of strong colours."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (SIZE, 6, 6, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(pixels).resize((32, 32))) for pixels in coarse]


def create(kind, device, folder):
    renderer = ViewRenderer(SPECS, seed=5)
    order = EpochOrder(SIZE, BATCH, 5)
    if kind == "tensor":
        images = torch.from_numpy(np.stack(pictures())).permute(0, 3, 1, 2).contiguous()
        return TensorLoader(images, torch.arange(SIZE), renderer, order, device)
    folder.mkdir(exist_ok=True)
    paths = [str(folder / f"{i}.png") for i in range(SIZE)]
    for path, pixels in zip(paths, pictures(), strict=True):
        Image.fromarray(pixels).save(path)
    files = ImageFiles(tuple(paths), torch.arange(SIZE), ())
    return ViewLoader(PixelSource(files), renderer, order, device, 2)


@on_gpu
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore::UserWarning:torch.*")
@pytest.mark.parametrize("kind", ["tensor", "files"])
def test_views_are_those_of_a_cpu(kind, tmp_path):
    ours, theirs = (create(kind, device, tmp_path / "files") for device in (DEVICE, CPU))
    assert len(ours) == len(theirs) == 2
    for epoch in (0, 3):
        for loader in (ours, theirs):
            loader.set_epoch(epoch)
        for mine, plain in zip(ours, theirs, strict=True):
            assert torch.equal(mine.labels.cpu(), plain.labels)
            for view, expected in zip(mine.views, plain.views, strict=True):
                assert view.device.type == DEVICE.type
                apart = (view.cpu() - expected).abs()
                # a level where a crop is rounded to the other side, which contrast may double
                assert apart.max() < 4
                assert apart.mean() < 0.05
