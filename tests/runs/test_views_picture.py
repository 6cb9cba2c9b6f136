import pytest
import torch
from PIL import Image

from sslortho.runs.views_picture import draw_views


def test_the_picture_of_the_views_shows_their_pixels(tmp_path):
    red, green = torch.zeros(2, 3, 3, 8, 8)
    red[:, 0, :4], green[:, 1, :4] = 1, 1
    draw_views(tmp_path / "views.png", (red, green))
    with Image.open(tmp_path / "views.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(maxcolors=2**20)}
    assert {(255, 0, 0), (0, 255, 0)} <= colours


def test_small_views_are_drawn_smaller_than_large_ones(tmp_path):
    """Two large ones in red, six of half their side in green: a quarter of the area."""
    red, green = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 4, 4)
    red[:, 0, :4], green[:, 1, :2] = 1, 1
    draw_views(tmp_path / "views.png", (red,) * 2 + (green,) * 6)
    with Image.open(tmp_path / "views.png") as image:
        colours = image.convert("RGB").getcolors(maxcolors=2**20)
    area = {colour: count for count, colour in colours}
    assert 0.15 < area[0, 255, 0] / 6 / (area[255, 0, 0] / 2) < 0.4


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_views_of_other_channels_than_three_are_drawn(tmp_path, channels):
    """The lower half is bright in the first channel: red, or white where it is the only one."""
    view = torch.zeros(3, channels, 8, 6)
    view[:, 0, 4:] = 1
    draw_views(tmp_path / "views.png", (view, view), columns=2)
    with Image.open(tmp_path / "views.png") as image:
        colours = {colour: count for count, colour in image.convert("RGB").getcolors(2**20)}
    bright = (255, 255, 255) if channels == 1 else (255, 0, 0)
    assert colours[0, 0, 0] > 1000
    assert colours[bright] > 1000


def test_large_views_are_drawn_with_the_mean_of_their_pixels(tmp_path):
    stripes = torch.zeros(1, 3, 264, 264)
    stripes[..., ::2] = 1  # each pixel of the picture is one of both
    draw_views(tmp_path / "views.png", (stripes,))
    with Image.open(tmp_path / "views.png") as image:
        counts = {colour: count for count, colour in image.getcolors(2**20)}
    assert counts[128, 128, 128] == 132 * 132
