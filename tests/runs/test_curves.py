import pytest
from PIL import Image

from sslortho.runs import curves
from sslortho.runs.curves import draw_curves


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


def _panels(*names):
    records = [{"step": s, **dict.fromkeys(names, 1.0 + s)} for s in range(3)]
    return {panel.label: list(panel.names) for panel in curves.choose_panels({"a": records})}


def test_curves_of_a_classifier_are_of_its_own_accuracy():
    assert _panels("loss", "top1", "knn_top1") == {"loss": ["loss"], "test top-1 (%)": ["top1"]}


def test_there_is_a_panel_for_what_was_recorded_and_for_nothing_else():
    assert _panels("loss", "neither") == {"loss": ["loss"]}
    unlabelled = _panels("loss", "val_loss", "probe/rankme", "probe/feature_std", "probe/ranking")
    assert unlabelled == {
        "loss": ["loss", "val_loss"],
        "own view told from others (%)": ["probe/ranking"],
        "RankMe": ["probe/rankme"],
        "spread (1: uniform, 0: one point)": ["probe/feature_std"],
    }
    nothing = [{"step": 1, "loss": 1.0, "knn_top1": None}]
    assert [panel.label for panel in curves.choose_panels({"a": nothing})] == ["loss"]


@pytest.mark.slow
def test_no_panel_of_a_picture_is_empty(tmp_path):
    """Four panels in two rows of three: the last two places stay blank, the others have ink."""
    names = ("loss", "knn_top1", "probe/rankme", "probe/feature_std")
    records = [{"step": s, **dict.fromkeys(names, 1.0 + s)} for s in range(9)]
    draw_curves(tmp_path / "four.png", {"a": records})
    with Image.open(tmp_path / "four.png") as image:
        rgb = image.convert("RGB")
    width, height = rgb.width // 3, rgb.height // 2
    inks = []
    for place in range(6):
        left, top = place % 3 * width, place // 3 * height
        colours = rgb.crop((left, top, left + width, top + height)).getcolors(maxcolors=2**20)
        inks.append(sum(count for count, c in colours if max(c) - min(c) > 60))
    assert all(ink > 100 for ink in inks[:4])
    assert inks[4:] == [0, 0]


def test_a_curve_has_no_more_points_than_can_be_seen(tmp_path):
    records = [{"step": step, "loss": 1.0} for step in range(100_000)]
    steps, values = curves._series(records, "loss")
    assert 1000 <= len(steps) == len(values) <= 4000
    assert steps[0] == 0
