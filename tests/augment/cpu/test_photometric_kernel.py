"""Photometry of one image, against torchvision's functional operations sample by sample."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.cpu_kernels import as_tensor, noise, render_fused, scene
from helpers.photometry import adjusted_by_torchvision, draw
from torchvision.transforms import functional as tv

from sslortho.augment import create_views
from sslortho.augment.reference.photometric import render_photometric

FIRST, SECOND = create_views("barlow_twins", 48)
EVERYTHING = replace(FIRST, jitter_p=0.7, grayscale_p=0.3, blur_p=0.6, solarise_p=0.4)
STRONG = replace(EVERYTHING, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5, jitter_p=1.0)
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
SPECS = {
    "first": FIRST,
    "second": SECOND,
    "everything": EVERYTHING,
    "strong": STRONG,
    "odd size": replace(STRONG, crop_size=37, blur_taps=9),
    "kernel as long as the image allows": replace(STRONG, crop_size=12),
    "small": create_views("barlow_twins_small", 32)[1],
}


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("channels_last", [True, False])
def test_a_view_is_torchvisions_to_within_torchvisions_own_rounding(spec, channels_last):
    """On noise, hue turned: torchvision in float32 is 5e-4 of a grey level from float64."""
    spec = replace(spec, **PLAIN)
    side, count = spec.crop_size, 60
    crops = np.stack([scene(side, side) if i % 2 else noise(side, side, i) for i in range(count)])
    drawn = draw(spec, count)
    ours = 255 * render_fused(crops, drawn, spec, channels_last).double()
    exact = 255 * torch.stack(
        [
            adjusted_by_torchvision(as_tensor(crops[i]).double() / 255, drawn, i, spec)
            for i in range(count)
        ]
    )
    apart = (ours - exact).abs()
    # beside the threshold of solarisation one may invert what the other leaves
    assert (apart > 6e-4).sum() <= (3 if spec.solarise_p else 0)


def test_all_orders_of_the_jitter_are_those_of_the_reference():
    spec = replace(STRONG, grayscale_p=0.0, blur_p=0.0, solarise_p=0.0)
    crops = np.stack([scene(48, 48)] * 200)
    drawn = draw(spec, 200)
    assert len({tuple(order) for order in drawn.order}) == 24
    reference = render_photometric(torch.from_numpy(crops).permute(0, 3, 1, 2), drawn, spec)
    torch.testing.assert_close(render_fused(crops, drawn, spec, True), reference, rtol=0, atol=2e-5)


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.7, 1.3, 2.0, 9.0])
def test_taps_that_are_left_out_change_nothing_that_float32_sees(sigma):
    spec = replace(FIRST, jitter_p=0.0, grayscale_p=0.0, blur_p=1.0, **PLAIN)
    drawn = replace(draw(spec, 1), sigma=np.array([sigma]))
    crop = noise(48, 48)
    exact = tv.gaussian_blur((as_tensor(crop) / 255).double(), [23, 23], [sigma, sigma])
    ours = render_fused(crop[None], drawn, spec, True)[0].double()
    assert (ours - exact).abs().max() < 6e-7


def test_normalisation_is_by_channel():
    spec = replace(FIRST, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
    crop = noise(48, 48)
    expected = tv.normalize(as_tensor(crop) / 255, list(spec.mean), list(spec.std))
    ours = render_fused(crop[None], draw(spec, 1), spec, True)[0]
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-6)
