import numpy as np
import pytest
from helpers.report_runs import COLUMNS, ROWS, accuracies, experiment
from matplotlib.image import imread

from sslortho.paper import plots
from sslortho.paper.grid import Plot
from sslortho.paper.plots import mean_line, plot_lines, running_mean
from sslortho.paper.run_records import run_points


def test_training_records_are_averaged_over_the_steps_of_their_epoch():
    records = [
        {"step": 0, "epoch": 0, "top1": 9.0},
        {"step": 10, "epoch": 0, "loss": 4.0},
        {"step": 15, "epoch": 0, "loss": 1.0},
        {"step": 15, "epoch": 1, "top1": 30.0},
        {"step": 25, "epoch": 1, "loss": 0.5},
        {"step": 30, "epoch": 1, "loss": None},
    ]
    # 10 steps of 4 and 5 of 1; the step that had no value has no weight
    assert run_points(records, "loss", "epoch") == {1: pytest.approx(3.0), 2: 0.5}
    assert run_points(records, "loss", "step") == {10: 4.0, 15: 1.0, 25: 0.5}
    assert run_points(records, "top1", "epoch") == {0: 9.0, 1: 30.0}
    assert run_points(records, "top1", "step") == {0: 9.0, 15: 30.0}


def test_a_line_is_the_mean_of_the_seeds_that_are_there():
    line = mean_line(experiment().cells[0], "top1", [{0: 1.0, 1: 5.0}, {0: 2.0, 1: 9.0}, {0: 6.0}])
    assert line.x == [0, 1]
    assert line.mean == pytest.approx([3.0, 7.0])
    errors = [np.std([1, 2, 6], ddof=1) / 3**0.5, np.std([5, 9], ddof=1) / 2**0.5]
    assert line.stderr == pytest.approx(errors)
    assert line.counts == [3, 2]


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("count", [1, 7, 120])
def test_a_running_mean_is_of_so_many_steps(count, every):
    steps = [every * (i + 1) for i in range(count)]
    values = np.random.default_rng(0).normal(size=count)
    on_a_side = 25 // every  # of 50 steps with a record every 10, two on either side: five
    reach = [min(on_a_side, i, count - 1 - i) for i in range(count)]
    literal = [np.mean(values[i - r : i + r + 1]) for i, r in enumerate(reach)]
    np.testing.assert_allclose(running_mean(steps, values, 50), literal, rtol=0, atol=1e-12)


def test_a_running_mean_of_records_at_odd_steps():
    steps, values = [10, 20, 25, 35, 45, 50, 100], [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    literal = []
    for step in steps:
        reach = min(10, step - steps[0], steps[-1] - step)
        literal.append(
            np.mean([v for s, v in zip(steps, values, strict=True) if abs(s - step) <= reach])
        )
    np.testing.assert_allclose(running_mean(steps, values, 20), literal)


@pytest.mark.parametrize(
    ("quantity", "recorded", "label"),
    [
        ("accuracy", "val_top1", "validation top-1 (%)"),
        ("accuracy", "top1", "test top-1 (%)"),
        ("evaluation_loss", "val_loss", "validation loss"),
        ("evaluation_loss", "test_loss", "test loss"),
        ("val_knn_top1", "val_knn_top1", "kNN top-1 of held-out images (%)"),
        ("filter_cosine/conv", "filter_cosine/conv", "mean absolute cosine of filters"),
    ],
)
def test_evaluations_are_of_held_out_images_where_there_are_any(
    runs, figures, quantity, recorded, label
):
    records = accuracies([1.0, 2.0], recorded)
    if recorded.startswith("val"):  # at the end the test images too: no part of the curve
        records.append({"step": 30, "epoch": 3, "top1": 99.0, "test_loss": 99.0})
    runs.begin("basic_cnn-sgd", 0, records)
    runs.report(experiment(plots=(Plot("f", "F", quantity, (), "epoch"),)))
    (axis,) = figures["f.png"].axes
    assert axis.get_ylabel() == label
    assert axis.lines[0].get_xydata().tolist() == [[0, 1], [1, 2]]


def test_a_diverged_run_ends_where_it_ends(runs):
    records = [*accuracies([10, 20]), {"step": 30, "epoch": 2, "top1": None}]
    runs.diverge("basic_cnn-sgd", 0, records)
    runs.finish("basic_cnn-orth_sgd", 0, records=accuracies([10, 20, 30, 40]))
    lines = plot_lines(experiment(), Plot("f", "F", "accuracy", (), "epoch"), runs.out / "runs")
    assert [line.x for line in lines] == [[0, 1], [0, 1, 2, 3]]


@pytest.fixture
def figures(monkeypatch):
    """File name to figure, of those that are saved; they are written as well."""
    saved, save = {}, plots.save_figure

    def spy(figure, path):
        saved[path.name] = figure
        save(figure, path)

    monkeypatch.setattr(plots, "save_figure", spy)
    return saved


def test_rows_have_a_colour_columns_a_dash_and_seeds_a_band(runs, figures):
    for cell in experiment().cells:
        for seed in range(2 if cell.row == "resnet20" else 1):
            runs.finish(cell.name, seed, records=accuracies([10, 20 + seed, 30]))
    all_cells = Plot("all", "All", "accuracy", (), "epoch")
    some = Plot("some", "Some", "accuracy", ("resnet20-sgd", "resnet20-orth_sgd"), "epoch")
    text = runs.report(experiment(plots=(all_cells, some)))
    assert "![All](all.png)" in text
    assert imread(runs.out / "all.png").shape[0] > 100
    (axis,) = figures["all.png"].axes
    looks = [(line.get_color(), line.get_linestyle()) for line in axis.lines]
    (a, a_sgd), (b, b_orth), (c, c_sgd), (d, d_orth) = looks
    assert a == b != c == d
    assert (a_sgd, c_sgd, b_orth, d_orth) == ("--", "--", "-", "-")
    assert len(axis.collections) == 2  # one seed has no band
    names = [entry.get_text() for entry in axis.get_legend().get_texts()]
    assert names == [*ROWS.values(), *COLUMNS.values()]
    (axis,) = figures["some.png"].axes
    first, second = axis.lines
    assert first.get_color() != second.get_color()
    names = [entry.get_text() for entry in axis.get_legend().get_texts()]
    assert names == list(COLUMNS.values())


def test_thirty_cells_are_told_apart(runs, figures):
    rows = {f"row{i}": f"row {i}" for i in range(15)}
    of = experiment(rows=rows, plots=(Plot("f", "F", "accuracy", (), "epoch"),))
    for cell in of.cells:
        runs.begin(cell.name, 0, accuracies([10, 20]))
    runs.report(of)
    lines = figures["f.png"].axes[0].lines
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(lines) == len(looks) == 30


def test_counts_by_step_are_points_with_their_running_mean(runs, figures):
    name = "tiny_gradients/backbone.layer2.1.conv2"
    counts = np.random.default_rng(0).integers(0, 99, 80).tolist()
    records = [{"step": i + 1, "epoch": i // 8, "loss": 1.0, name: n} for i, n in enumerate(counts)]
    runs.finish("resnet20-sgd", 0, records=records)
    runs.report(experiment(plots=(Plot("f", "F", name, (), "step"),)))
    (axis,) = figures["f.png"].axes
    (points,) = axis.collections
    assert points.get_offsets().tolist() == [[i + 1, n] for i, n in enumerate(counts)]
    np.testing.assert_allclose(axis.lines[0].get_ydata(), running_mean(range(80), counts, 50))
    assert axis.get_xlabel() == "step"


@pytest.mark.parametrize(
    ("values", "scale"), [([2.3, 1.0], "linear"), ([2.3, 0.01], "log"), ([2.3, 0.0], "linear")]
)
def test_losses_have_a_logarithmic_axis_where_it_helps(runs, figures, values, scale):
    records = [{"step": i + 1, "epoch": i, "loss": value} for i, value in enumerate(values)]
    runs.begin("resnet20-sgd", 0, records)
    runs.report(experiment(plots=(Plot("f", "F", "loss", (), "epoch"),)))
    assert figures["f.png"].axes[0].get_yscale() == scale
