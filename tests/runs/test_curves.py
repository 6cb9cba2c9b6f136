import pytest
import torch
from PIL import Image

from sslortho.runs import curves
from sslortho.runs.curves import draw_curves, draw_views


def test_the_picture_of_the_views_shows_their_pixels(tmp_path):
    red, green = torch.zeros(2, 3, 3, 8, 8)
    red[:, 0, :4], green[:, 1, :4] = 1, 1
    draw_views(tmp_path / "views.png", (red, green))
    with Image.open(tmp_path / "views.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(maxcolors=2**20)}
    assert {(255, 0, 0), (0, 255, 0)} <= colours


@pytest.mark.slow
def test_small_views_are_drawn_smaller_than_large_ones(tmp_path):
    """Two large ones in red, six of half their side in green: a quarter of the area."""
    red, green = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 4, 4)
    red[:, 0, :4], green[:, 1, :2] = 1, 1
    draw_views(tmp_path / "views.png", (red,) * 2 + (green,) * 6)
    with Image.open(tmp_path / "views.png") as image:
        colours = image.convert("RGB").getcolors(maxcolors=2**20)
    area = {colour: count for count, colour in colours}
    assert 0.15 < area[0, 255, 0] / 6 / (area[255, 0, 0] / 2) < 0.4


@pytest.mark.slow
def test_curves_draw_a_line_for_each_run(tmp_path):
    records = [{"step": s, "loss": 10 - s, "knn_top1": None if s % 2 else s} for s in range(9)]
    draw_curves(tmp_path / "one.png", {"a": records})
    draw_curves(tmp_path / "none.png", {"a": []})
    draw_curves(tmp_path / "two.png", {"a": records, "b": records[:4]})
    inks = []
    for name in ("none", "one", "two"):
        with Image.open(tmp_path / f"{name}.png") as image:
            colours = image.convert("RGB").getcolors(maxcolors=2**20)
        inks.append(sum(count for count, colour in colours if max(colour) - min(colour) > 60))
    assert inks[0] < inks[1] < inks[2]


@pytest.mark.slow
def test_curves_of_a_classifier_are_of_its_own_accuracy(tmp_path):
    records = [{"step": s, "loss": 10 - s, "top1": 10 * s} for s in range(9)]
    draw_curves(tmp_path / "top1.png", {"a": records})
    other = [{"step": s, "loss": 10 - s, "neither": s} for s in range(9)]
    draw_curves(tmp_path / "none.png", {"a": other})
    lines = []
    for name in ("top1", "none"):
        with Image.open(tmp_path / f"{name}.png") as image:
            right = image.convert("RGB").crop((image.width // 2, 0, image.width, image.height))
            colours = right.getcolors(maxcolors=2**20)
        lines.append(sum(count for count, c in colours if max(c) - min(c) > 60))
    assert lines[0] > 100
    assert lines[1] == 0


def test_a_curve_has_no_more_points_than_can_be_seen(tmp_path):
    records = [{"step": step, "loss": 1.0} for step in range(100_000)]
    steps, values = curves._series(records, "loss")
    assert 1000 <= len(steps) == len(values) <= 4000
    assert steps[0] == 0
