"""Figures of images: copies, contrast, difference of views."""

import pytest
import torch

from sslortho.evaluate import contrast, distinct_share, view_difference


def _images(n=12):
    """Smooth images, as photographs are: noise would average out in thumbnails."""
    coarse = torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, 32, mode="bilinear")


def test_copies_are_counted_once():
    images = _images()
    assert distinct_share(images) == 100
    assert distinct_share(images[:1].expand(12, -1, -1, -1)) == pytest.approx(100 / 12)
    twice = torch.cat([images[:6], images[:6]])
    assert distinct_share(twice) == 50


def test_noise_of_a_camera_does_not_make_an_image_another():
    generator = torch.Generator().manual_seed(1)
    noisy = _images()[:1] + 0.05 * torch.randn(12, 3, 32, 32, generator=generator)
    assert distinct_share(noisy) == pytest.approx(100 / 12)


def test_contrast_is_the_deviation_within_an_image():
    flat = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 8, 8)
    assert contrast(flat) == 0
    board = torch.ones(5, 3, 8, 8)
    board[..., ::2] = -1
    assert contrast(board) == pytest.approx(1)


def test_views_that_are_equal_do_not_differ_and_unrelated_ones_do():
    images = _images(400)
    assert view_difference(images, images) == 0
    assert view_difference(images[:200], images[200:]) == pytest.approx(1, abs=0.1)
    halves = torch.nn.functional.interpolate(images, 16, mode="area")
    assert view_difference(images, halves) == pytest.approx(0, abs=1e-3)  # sizes may differ
    assert view_difference(images[:1], images[:1]) != view_difference(images[:1], images[:1])  # nan
