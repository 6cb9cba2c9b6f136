import json

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from sslortho.train import Reporter
from sslortho.train.reporting import draw_curves, draw_views, read_metrics, write_summary


@pytest.fixture
def reporter(tmp_path):
    reporter = Reporter(tmp_path, Accelerator(cpu=True), total_steps=10)
    yield reporter
    reporter.close()


def test_records_come_back_and_what_is_not_finite_is_null(tmp_path, reporter):
    reporter.log(1, 0, {"loss": 2.5})
    reporter.log(2, 0, {"loss": float("nan")})
    expected = [{"step": 1, "epoch": 0, "loss": 2.5}, {"step": 2, "epoch": 0, "loss": None}]
    assert read_metrics(tmp_path / "metrics.jsonl") == expected


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 2}]


def test_resuming_forgets_the_steps_that_will_be_taken_again(tmp_path, reporter):
    for step in range(5):
        reporter.log(step, 0, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5')
    reporter.resume(3)
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3]


def test_starting_over_forgets_everything(tmp_path, reporter):
    reporter.log(0, 0, {"knn_top1": 1.0})
    reporter.resume(0)
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_summary_is_strict_json(tmp_path):
    write_summary(tmp_path / "summary.json", {"loss": float("inf"), "top1": 90.0})

    def refuse(constant):
        raise AssertionError(constant)

    text = (tmp_path / "summary.json").read_text()
    assert json.loads(text, parse_constant=refuse) == {"loss": None, "top1": 90.0}


def test_the_picture_of_the_views_shows_their_pixels(tmp_path):
    red, green = torch.zeros(2, 3, 3, 8, 8)
    red[:, 0, :4], green[:, 1, :4] = 1, 1
    draw_views(tmp_path / "views.png", (red, green))
    with Image.open(tmp_path / "views.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(maxcolors=2**20)}
    assert {(255, 0, 0), (0, 255, 0)} <= colours


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
