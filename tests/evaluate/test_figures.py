import pytest
from matplotlib.cbook import is_math_text
from PIL import Image

from sslortho.evaluate.figures import COLOURS, MARKERS, new_figure, plain_text, save_figure


def test_a_picture_has_the_inches_asked_for_at_120_pixels_each(tmp_path):
    save_figure(new_figure(3, 2), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (360, 240)


@pytest.mark.parametrize(
    ("name", "begins"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.SVG", b"<?xml")]
)
def test_the_suffix_says_the_format(tmp_path, name, begins):
    save_figure(new_figure(1, 1), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)


@pytest.mark.parametrize("name", ["a", "a.", "a.txt"])
def test_a_suffix_that_is_no_picture_is_refused_by_name(tmp_path, name):
    with pytest.raises(ValueError, match=r"path=.*must end in one of .*\.png"):
        save_figure(new_figure(1, 1), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_drawing_that_fails_leaves_the_old_picture(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    figure = new_figure(1, 1)
    figure.text(0, 0, r"$\nonsense$")
    with pytest.raises(ValueError, match="nonsense"):
        save_figure(figure, path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == b"old"


def test_no_label_is_cut_off(tmp_path):
    figure = new_figure(4, 3)
    axes = figure.subplots()
    axes.set_yticks([0, 1], ["the first of two long labels", "the other"])
    axes.set_ylabel("some quantity")
    axes.set_title("title")
    save_figure(figure, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        pixels = image.convert("L")
    width, height = pixels.size
    for edge in ((0, 0, 1, height), (width - 1, 0, width, height), (0, 0, width, 1)):
        assert pixels.crop(edge).getextrema() == (255, 255)


def test_every_pair_of_colour_and_marker_is_another():
    pairs = {(i % len(COLOURS), i % len(MARKERS)) for i in range(len(COLOURS) * len(MARKERS))}
    assert len(pairs) == 90
    assert len(set(COLOURS)) == len(COLOURS)
    assert len(set(MARKERS)) == len(MARKERS)


def test_plain_text_is_short_and_means_nothing_to_matplotlib():
    assert plain_text("a  b\nc", 10) == "a b c"
    assert plain_text("great white shark", 12) == "great white…"
    assert plain_text("exactly", 7) == "exactly"
    assert is_math_text("from $1 to $2")
    assert not is_math_text(plain_text("from $1 to $2", 20))
