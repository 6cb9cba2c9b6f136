import numpy as np
import pytest
import sklearn.metrics
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from sslortho.evaluate import pictures
from sslortho.evaluate.figures import COLOURS, GREY, new_figure
from sslortho.evaluate.pictures import (
    RIGHT,
    WRONG,
    choose_queries,
    class_name,
    confusion_matrix,
    draw_confusion,
    draw_feature_map,
    draw_neighbours,
    most_confused,
    undo_normalise,
)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def near(image, colour, tolerance=2):
    """Where an image (height, width, 3) has a colour."""
    return (np.abs(image - 255 * np.array(to_rgb(colour))) <= tolerance).all(axis=2)


@pytest.fixture
def drawn(monkeypatch):
    """The figures drawn, in their order."""
    figures = []

    def remember(*size):
        figures.append(new_figure(*size))
        return figures[-1]

    monkeypatch.setattr(pictures, "new_figure", remember)
    return figures


def test_a_map_shows_each_class_where_it_is(tmp_path, drawn):
    points = torch.tensor([[-9.0, 0], [9, 0]]).repeat(50, 1)
    labels = torch.tensor([0, 1]).repeat(50)
    names = ("across", "up")
    draw_feature_map(
        tmp_path / "map.png", points, labels, ["_cat", "d$o$g"], "two", axis_names=names
    )
    axes = drawn[0].axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == (*names, "two")
    image = pixels(tmp_path / "map.png")
    axes = drawn[0].axes[0]
    for label, x in ((0, -9), (1, 9)):
        column, up = axes.transData.transform((x, 0))
        assert near(image, COLOURS[label], 60)[len(image) - 1 - int(up), int(column)]
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["_cat", r"d\$o\$g"]
    assert legend.get_window_extent().x1 <= image.shape[1]


def test_of_many_classes_the_most_frequent_are_named_and_the_others_grey(tmp_path, drawn):
    labels = torch.cat([torch.arange(100), torch.full((9,), 7), torch.full((9,), 41)])
    points = torch.randn(len(labels), 2, generator=torch.Generator().manual_seed(0))
    draw_feature_map(tmp_path / "map.png", points, labels, (), "many", most_classes=3)
    names = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert set(names) >= {"7", "41", "97 more classes"}
    assert len(names) == 4
    assert near(pixels(tmp_path / "map.png"), GREY).any()


def test_equally_frequent_classes_are_chosen_from_all_over(tmp_path, drawn):
    labels = torch.arange(1000)
    draw_feature_map(tmp_path / "map.png", torch.randn(1000, 2), labels, (), "many")
    chosen = [int(text.get_text()) for text in drawn[0].legends[0].get_texts()[:-1]]
    assert len(chosen) == 20
    assert max(np.diff([0, *chosen, 999])) < 100  # evenly would be 50


def test_points_without_labels_have_one_colour(tmp_path, drawn):
    labels = torch.full((30,), -1)
    draw_feature_map(tmp_path / "map.png", torch.randn(30, 2), labels, ("a",), "none")
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["unlabelled"]


def test_more_classes_than_can_be_told_apart_are_refused(tmp_path):
    with pytest.raises(ValueError, match="most_classes=91"):
        draw_feature_map(tmp_path / "a.png", torch.ones(1, 2), torch.ones(1), (), "", 91)


def test_confusion_equals_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    labels, predictions = torch.randint(0, 7, (2, 500), generator=generator)
    labels[labels == 3] = 2  # a class without samples
    oracle = sklearn.metrics.confusion_matrix(labels, predictions, labels=range(9))
    matrix = confusion_matrix(labels, predictions, 9)
    assert matrix.dtype == torch.int64
    assert matrix.tolist() == oracle.tolist()


def test_confusion_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="2 labels and 3 predictions"):
        confusion_matrix(torch.ones(2), torch.ones(3), 2)
    with pytest.raises(ValueError, match="labels must be from 0"):
        confusion_matrix(torch.tensor([-1]), torch.tensor([0]), 2)
    with pytest.raises(ValueError, match="predictions must be from 0 to classes_count - 1 = 1"):
        confusion_matrix(torch.tensor([1]), torch.tensor([2]), 2)
    assert confusion_matrix(torch.ones(0), torch.ones(0), 2).tolist() == [[0, 0], [0, 0]]


def test_the_most_confused_pairs_come_first():
    matrix = torch.tensor([[8, 2, 0, 0], [0, 50, 50, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
    expected = [("b", "c", 0.5), ("c", "a", 0.5), ("a", "b", 0.2)]
    assert most_confused(matrix, ("a", "b", "c", "d"), 9) == expected
    assert most_confused(matrix, (), 1) == [("1", "2", 0.5)]
    assert most_confused(torch.eye(3).long(), (), 5) == []


def test_a_confusion_matrix_writes_percent_of_each_true_class(tmp_path, drawn):
    matrix = torch.tensor([[3, 1, 0], [0, 7, 0], [0, 0, 0]])
    draw_confusion(tmp_path / "c.png", matrix, ("cat", "dog", "$$"))
    axes = drawn[0].axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}  # (column, row)
    assert texts == {(0, 0): "75.0", (1, 0): "25.0", (1, 1): "100"}
    image = pixels(tmp_path / "c.png")

    def colour(row, column):
        x, y = axes.transData.transform((column + 0.3, row + 0.3))  # beside the number
        return image[len(image) - 1 - int(y), int(x)].astype(int)

    assert colour(1, 1).sum() < colour(0, 0).sum() < colour(0, 1).sum() < colour(1, 0).sum()
    assert len({tuple(colour(2, column)) for column in range(3)}) == 1
    assert np.ptp(colour(2, 0)) == 0  # grey: it has no samples


@pytest.mark.parametrize(("count", "numbers", "names"), [(21, 0, 21), (61, 0, 0)])
def test_large_confusion_matrices_leave_out_numbers_then_names(
    tmp_path, drawn, count, numbers, names
):
    draw_confusion(tmp_path / "c.png", torch.eye(count).long(), [f"<{i}>" for i in range(count)])
    axes = drawn[0].axes[0]
    assert len(axes.texts) == numbers
    assert sum(label.get_text().startswith("<") for label in axes.get_yticklabels()) == names


def test_queries_are_spread_evenly_over_the_classes():
    labels = torch.tensor([0] * 50 + [1] * 3 + [4] * 50)[torch.randperm(103)]
    chosen = choose_queries(labels, 15, seed=0)
    assert len(chosen.unique()) == 15
    assert labels[chosen].tolist() == [0] * 6 + [1] * 3 + [4] * 6
    assert torch.equal(chosen, choose_queries(labels, 15, seed=0))
    assert not torch.equal(chosen, choose_queries(labels, 15, seed=1))
    assert sorted(choose_queries(labels, 1000, 0).tolist()) == list(range(103))


def test_few_queries_of_many_classes_are_of_different_ones():
    labels = torch.arange(100).repeat(5)
    chosen = [labels[choose_queries(labels, 10, seed)].tolist() for seed in range(3)]
    assert all(len(set(classes)) == 10 for classes in chosen)
    assert len(set(map(tuple, chosen))) == 3


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def view(colour, size=16):
    """A uniform image as the model gets it."""
    values = [(c - m) / s for c, m, s in zip(colour, MEAN, STD, strict=True)]
    return torch.tensor(values).view(3, 1, 1).expand(3, size, size)


def test_normalisation_is_undone_exactly_and_what_is_beyond_is_clamped():
    torch.testing.assert_close(
        undo_normalise(view((0.2, 0.4, 0.6)), MEAN, STD),
        torch.tensor([0.2, 0.4, 0.6]).expand(16, 16, 3),
    )
    pixels = torch.rand(2, 3, 4, 5)
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in ((0.1, 0.2, 0.3), (0.5, 0.25, 2.0))
    )
    found = undo_normalise((pixels - mean) / std, (0.1, 0.2, 0.3), (0.5, 0.25, 2.0))
    torch.testing.assert_close(found, pixels.permute(0, 2, 3, 1))
    assert undo_normalise(torch.full((1, 3, 2, 2), 99.0), MEAN, STD).eq(1).all()


def test_neighbours_have_their_colours_frames_and_captions(tmp_path, drawn):
    blue, yellow, pink = (0.2, 0.2, 0.8), (0.8, 0.8, 0.2), (0.8, 0.2, 0.8)
    draw_neighbours(
        tmp_path / "n.png",
        torch.stack([view(blue), view(yellow), view(pink)]),
        torch.stack([view(pink), view(yellow), view(blue)])[:, None].expand(3, 2, 3, 16, 16),
        torch.tensor([0, 1, -1]),
        torch.tensor([[0, 1], [0, 1], [1, -1]]),
        torch.tensor([[0.987, 0.9], [-0.5, 0.25], [0, 0]]),
        ("cat", "dog"),
        MEAN,
        STD,
    )
    image = pixels(tmp_path / "n.png")
    grid = np.array(drawn[0].axes, dtype=object).reshape(3, 4)[:, [0, 2, 3]]
    captions = [[axes.get_title() for axes in row] for row in grid]
    assert captions == [
        ["query\ncat", "cat\n✓ cos 0.99", "dog\n✗ cos 0.90"],
        ["query\ndog", "cat\n✗ cos -0.50", "dog\n✓ cos 0.25"],
        ["query\nunlabelled", "dog\ncos 0.00", "unlabelled\ncos 0.00"],
    ]
    frames = [["black", RIGHT, WRONG], ["black", WRONG, RIGHT], ["black", GREY, GREY]]
    colours = [[blue, pink, pink], [yellow, yellow, yellow], [pink, blue, blue]]
    for i in range(3):
        for j in range(3):
            box = grid[i, j].get_window_extent()
            top, bottom = round(len(image) - box.y1), round(len(image) - box.y0)
            part = image[top:bottom, round(box.x0) : round(box.x1)]
            assert near(part, colours[i][j]).mean() > 0.8
            assert near(part[:, 0:1], frames[i][j]).all()
            assert near(part[-1:], frames[i][j]).all()


def test_captions_of_neighbours_do_not_overlap(tmp_path, drawn):
    names = ["SEMI-TRAILER TRUCK", "a name of many words, none of them long"]
    draw_neighbours(
        tmp_path / "n.png",
        torch.zeros(2, 3, 8, 8),
        torch.zeros(2, 3, 3, 8, 8),
        torch.tensor([0, 1]),
        torch.tensor([[0, 0, 1]] * 2),
        torch.zeros(2, 3),
        names,
        MEAN,
        STD,
    )
    height, width = pixels(tmp_path / "n.png").shape[:2]
    boxes = [axes.title.get_window_extent() for axes in drawn[0].axes if axes.get_title()]
    images = [axes.get_window_extent() for axes in drawn[0].axes if axes.get_title()]
    for i, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
        assert not any(box.overlaps(other) for other in boxes[i + 1 :] + images)


def test_classes_without_names_have_numbers():
    assert class_name((), 12) == "12"
    assert class_name(("a",), -1) == "unlabelled"
    assert class_name(("a" * 99,), 0, most=5) == "aaaa…"
