"""Finished views beside those of torchvision's own random transforms: the same distribution.

Neither side sees the other's draws. Each view is reduced to a few numbers, and those are compared by
two-sample tests, which must see it when any operation is left out.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from sslortho.augment import ViewRenderer, ViewSpec
from sslortho.augment.cpu.view_kernel import render_views

pytestmark = pytest.mark.slow

OURS, THEIRS, SIDE, HEIGHT, WIDTH = 8000, 1500, 24, 48, 64
P_VALUE = 1e-4  # of each of eleven statistics
# rarer and stronger than the paper's, so that one left out stands out of the rest
SPEC = ViewSpec(
    crop_size=SIDE,
    crop_scale=(0.3, 1.0),
    crop_ratio=(0.5, 2.0),
    flip_p=0.4,
    jitter_p=0.8,
    brightness=0.6,
    contrast=0.8,
    saturation=0.9,
    hue=0.2,
    grayscale_p=0.2,
    blur_p=0.6,
    blur_sigma=(0.3, 2.0),
    blur_taps=11,
    solarise_p=0.2,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)


def scene() -> Tensor:
    """uint8 (3, h, w): a ramp each way, a coloured blob, fine stripes; asymmetric in everything."""
    y, x = torch.meshgrid(torch.linspace(0, 1, HEIGHT), torch.linspace(0, 1, WIDTH), indexing="ij")
    blob = torch.exp(-30 * ((x - 0.4) ** 2 + (y - 0.6) ** 2))
    stripes = 0.04 * torch.sign(torch.sin(2.2 * torch.arange(WIDTH)))
    red = 0.25 + 0.4 * x + 0.3 * blob + stripes
    green = 0.25 + 0.3 * y + 0.1 * blob + stripes
    blue = 0.3 + 0.2 * (1 - x) * y - 0.15 * blob + stripes
    return (255 * torch.stack([red, green, blue]).clamp(0, 1)).byte()


def by_us(spec: ViewSpec) -> Tensor:
    renderer = ViewRenderer((spec,), seed=1)
    image = scene().permute(1, 2, 0).contiguous().numpy()
    draws = renderer.draw(np.arange(OURS), epoch=0)
    out = np.empty((1, OURS, 3 * SIDE * SIDE), np.float32)
    for i in range(OURS):
        uniform, parameters = draws.uniforms[i], draws.parameters[i]
        render_views(image, uniform, parameters, renderer.settings, False, out, i)
    return torch.from_numpy(out).view(OURS, 3, SIDE, SIDE)


def by_torchvision(spec: ViewSpec) -> Tensor:
    crop = transforms.RandomResizedCrop(
        SIDE, spec.crop_scale, spec.crop_ratio, InterpolationMode.BICUBIC, antialias=True
    )
    jitter = transforms.ColorJitter(spec.brightness, spec.contrast, spec.saturation, spec.hue)
    blur = transforms.GaussianBlur(spec.blur_taps, spec.blur_sigma)
    pipeline = transforms.Compose(
        [
            crop,
            transforms.RandomHorizontalFlip(spec.flip_p),
            transforms.ConvertImageDtype(torch.float32),
            transforms.RandomApply([jitter], spec.jitter_p),
            transforms.RandomGrayscale(spec.grayscale_p),
            transforms.RandomApply([blur], spec.blur_p),
            transforms.RandomSolarize(spec.solarise_threshold, spec.solarise_p),
        ]
    )
    image = scene()
    return torch.stack([pipeline(image) for _ in range(THEIRS)])


def statistics(views: Tensor) -> dict[str, np.ndarray]:
    luma = views.mean(dim=1)
    chroma = views.amax(dim=1) - views.amin(dim=1)
    across = torch.linspace(-1, 1, SIDE)
    red, green, blue = views.mean(dim=(2, 3)).T
    values = {
        "brightness": luma.mean(dim=(1, 2)),
        "spread": luma.std(dim=(1, 2)),
        "colour": chroma.mean(dim=(1, 2)),
        "red to green": red - green,
        "green to blue": green - blue,
        "left to right": (luma * across).mean(dim=(1, 2)),
        "top to bottom": (luma * across[:, None]).mean(dim=(1, 2)),
        "fine structure": luma.diff(dim=2).abs().mean(dim=(1, 2)),
        "colour to brightness": chroma.mean(dim=(1, 2)) / luma.mean(dim=(1, 2)),
        "across to down": (
            luma.diff(dim=2).abs().mean(dim=(1, 2)) / luma.diff(dim=1).abs().mean(dim=(1, 2))
        ),
        "darkest": luma.amin(dim=(1, 2)),
    }
    return {name: value.double().numpy() for name, value in values.items()}


@pytest.fixture(scope="module")
def theirs() -> dict[str, np.ndarray]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return statistics(by_torchvision(SPEC))


def p_values(spec: ViewSpec, theirs: dict[str, np.ndarray]) -> dict[str, float]:
    ours = statistics(by_us(spec))
    return {name: stats.ks_2samp(ours[name], theirs[name]).pvalue for name in ours}


@pytest.mark.slow
def test_views_have_the_distribution_of_torchvisions(theirs):
    values = p_values(SPEC, theirs)
    assert min(values.values()) > P_VALUE, values


LEFT_OUT = {
    "crop": {"crop_scale": (1.0, 1.0), "crop_ratio": (4 / 3, 4 / 3)},
    "ratio": {"crop_ratio": (1.0, 1.0)},
    "flip": {"flip_p": 0.0},
    "jitter": {"jitter_p": 0.0},
    "brightness": {"brightness": 0.0},
    "contrast": {"contrast": 0.0},
    "saturation": {"saturation": 0.0},
    "hue": {"hue": 0.0},
    "grayscale": {"grayscale_p": 0.0},
    "blur": {"blur_p": 0.0},
    "solarise": {"solarise_p": 0.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("change", LEFT_OUT.values(), ids=LEFT_OUT.keys())
def test_an_operation_that_is_left_out_is_seen(change, theirs):
    values = p_values(replace(SPEC, **change), theirs)
    assert min(values.values()) < P_VALUE / 100, values
