from dataclasses import fields

import pytest
import yaml

from sslortho.models.backbones import BACKBONES, create_backbone
from sslortho.optim import param_groups
from sslortho.optim.registry import accepted_options
from sslortho.paper.grid_file import read_experiment
from sslortho.paper.grid_parts import parse_figure
from sslortho.recipes.configs import configs_folder
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.supervised.options import SupervisedOptions

PAPER = configs_folder() / "paper"
CELLS = {
    "table1": 4, "table2": 60, "table3": 20, "table4": 20, "table5": 9, "figure1": 2, "figure7": 2,
    "figure8": 2, "figure9": 2, "figure10": 4, "imagenet": 2, "attention": 6, "order": 36,
    "order_supervised": 8, "order_polar": 10, "cifar10_resnet18": 6, "new_methods": 12,
}  # fmt: skip
SEEDS = {
    "figure7": 1, "figure9": 1, "imagenet": 1, "order": 3, "order_supervised": 3, "order_polar": 3,
    "cifar10_resnet18": 1, "new_methods": 3,
}  # fmt: skip
AS_IN_3_1_3 = ("table3", "table4", "table5", "figure1", "figure8", "figure9")


def class_of(command, options):
    """Class of a command's options, and of the method that they name."""
    if command == "supervised":
        return SupervisedOptions
    return PretrainOptions.for_method(options.get("method", "barlow_twins"))


def paper(name):
    return read_experiment(PAPER / f"{name}.yaml")


def options(name, cell):
    return next(c.options for c in paper(name).cells if c.name == cell)


def test_every_experiment_of_the_paper_has_a_file():
    assert {path.stem for path in PAPER.glob("*.yaml")} == set(CELLS)


@pytest.mark.parametrize("name", CELLS)
def test_each_has_its_cells_and_options_that_its_command_takes(name):
    experiment = paper(name)
    assert experiment.name == name
    assert len(experiment.cells) == len({cell.name for cell in experiment.cells}) == CELLS[name]
    assert experiment.seeds == SEEDS.get(name, 5)
    for cell in experiment.cells:
        cls = class_of(experiment.command, cell.options)
        assert set(cell.options) <= {field.name for field in fields(cls)}
        cls(data=experiment.data, data_dir="D", **cell.options)  # checks the values
        assert cell.options["backbone"] in BACKBONES
        taken = accepted_options(cell.options["optim"])
        assert {"momentum", "betas"} & set(cell.options) <= taken
        if {"orth_layers", "attention"} & set(cell.options):
            assert "orth" in taken


ORDER_ROWS = {"resnet20": 16, "batch_64": 6, "batch_1024": 6, "vit": 5, "long": 3}


@pytest.mark.parametrize("row", ORDER_ROWS)
def test_orthogonal_optimizers_of_the_order_orthonormalise_most_of_each_backbone(row):
    cells = [cell for cell in paper("order").cells if cell.row == row]
    assert len(cells) == ORDER_ROWS[row]
    backbone = create_backbone(cells[0].options["backbone"])
    total = sum(parameter.numel() for parameter in backbone.parameters())
    for cell in cells:
        if cell.options["optim"].startswith("orth_"):
            groups = param_groups(backbone, cell.options.get("orth_layers", "conv"))
            taken = sum(p.numel() for group in groups if group["orth"] for p in group["params"])
            assert taken > 0.9 * total, cell.name


def test_the_long_order_is_of_four_times_as_many_epochs():
    short, long = (options("order", f"{row}-orth_lars") for row in ("resnet20", "long"))
    assert long == {**short, "epochs": 4 * short["epochs"]}


@pytest.mark.parametrize("name", CELLS)
def test_tables_and_plots_are_of_cells_that_there_are(name):
    experiment = paper(name)
    names = {cell.name for cell in experiment.cells}
    figures = [table.figure for table in experiment.tables]
    assert len(figures) == len(set(figures))
    for table in experiment.tables:
        assert set(table.paper) <= names
    plots = [plot.name for plot in experiment.plots]
    assert len(plots) == len(set(plots))
    for plot in experiment.plots:
        assert plot.cells
        assert set(plot.cells) <= names


@pytest.mark.parametrize("name", AS_IN_3_1_3)
def test_settings_of_section_3_1_3(name):
    for cell in paper(name).cells:
        got = cell.options
        assert [got[key] for key in ("batch_size", "lr", "momentum", "epochs", "schedule")] == [
            1024, 0.01, 0.9, 100, "constant",
        ]  # fmt: skip
        assert got["weight_decay"] == got["weight_decay_biases"] == 5e-4
        assert got["validation"] == 0.1
        assert got["views"] == "supervised_small"
        torchvision = got["backbone"] not in ("basic_cnn", "resnet20", "resnet44")
        assert got.get("stem") == ("stock" if torchvision else None)


def test_settings_that_differ_from_section_3_1_3():
    he, tuned = options("table1", "he-sgd"), options("table1", "tuned-orth_sgd")
    keys = ("batch_size", "lr", "momentum", "weight_decay", "weight_decay_biases")
    assert [he[key] for key in keys] == [128, 0.1, 0.9, 1e-4, 1e-4]
    assert [tuned[key] for key in keys] == [1024, 0.05, 0.85, 0.01, 0.01]
    for got in (he, tuned):
        assert [got["epochs"], got["schedule"], got["milestones"], got["gamma"]] == [
            200, "multi_step", [100, 150], 0.1,
        ]  # fmt: skip
    sizes = {cell.row: cell.options["batch_size"] for cell in paper("figure10").cells}
    assert sizes == {"batch_4": 4, "batch_16": 16}
    imagenet = options("imagenet", "resnet34-orth_sgd")
    assert [imagenet[key] for key in ("crop_size", "batch_size", "lr", "momentum")] == [
        224, 1024, 0.01, 0.9,
    ]  # fmt: skip


def test_momentum_is_beta_1_of_adam():
    sgd, adam = (
        options("table2", "lr0.001_momentum0-sgd"),
        options("table2", "lr0.001_momentum0-adam"),
    )
    assert (sgd["lr"], sgd["momentum"], sgd.get("betas")) == (0.001, 0, None)
    assert (adam["lr"], adam.get("momentum"), adam["betas"]) == (0.001, None, [0, 0.99])
    settings = {(c.options["lr"], str(c.options["momentum"])) for c in paper("table2").cells
                if c.column == "orth_sgd"}  # fmt: skip
    assert settings == {
        (lr, m) for lr in (0.1, 0.01, 0.001) for m in ("0.95", "0.9", "0.8", "0.5", "0")
    }


@pytest.mark.parametrize("optim", ["lars", "orth_lars"])
def test_figure_7_has_the_settings_of_the_imagenet_configuration(optim):
    ours = options("figure7", f"resnet50-{optim}")
    theirs = yaml.safe_load((PAPER.parent / f"imagenet_{optim}_1024.yaml").read_text())
    theirs.pop("data")  # the experiment has it
    assert {key: ours[key] for key in theirs} == theirs


@pytest.mark.parametrize(
    ("name", "figure", "cell", "expected"),
    [
        ("table1", "top1", "tuned-orth_sgd", (92.08, 0.05)),
        ("table1", "test_loss", "he-sgd", (0.4053, 0.0054)),
        ("table2", "top1", "lr0.01_momentum0.95-orth_sgd", (87.72, 0.44)),
        ("table2", "top1", "lr0.1_momentum0.9-adam", (28.26, 7.16)),
        ("table2", "top1", "lr0.001_momentum0-orth_adam", (83.45, 0.40)),
        ("table2", "test_loss", "lr0.1_momentum0.5-adam", (15683.8291, 15681.5332)),
        ("table2", "test_loss", "lr0.001_momentum0.9-orth_sgd", (0.5042, 0.0055)),
        ("table3", "top1", "resnet50-sgd", (67.99, 0.73)),
        ("table3", "top1", "wide_resnet50_2-orth_sgd", (87.30, 0.12)),
        ("table3", "test_loss", "densenet161-orth_sgd", (1.1688, 0.1960)),
        ("table4", "top1", "resnet44-norm_sgd", (83.60, 0.77)),
        ("table4", "top1", "resnet18-component_norm_sgd", (None, None)),
        ("table4", "test_loss", "densenet121-component_norm_sgd", (None, None)),
        ("table4", "test_loss", "resnet44-component_norm_sgd", (0.7902, 0.0477)),
        ("table5", "top1", "resnet20-conv_orth_sgd", (87.70, 0.40)),
        ("imagenet", "top1", "resnet34-orth_sgd", (67.5, None)),
        ("imagenet", "test_loss", "resnet34-sgd", (1.565, None)),
    ],
)
def test_figures_are_those_of_the_paper(name, figure, cell, expected):
    (table,) = (table for table in paper(name).tables if table.figure == figure)
    assert table.paper[cell] == expected


def test_what_the_paper_does_not_say_is_not_there():
    counts = {(name, t.figure): len(t.paper) for name in CELLS for t in paper(name).tables}
    full = {key: n for key, n in counts.items() if n == CELLS[key[0]]}
    assert set(full) == {
        *((f"table{i}", figure) for i in (1, 2, 3, 4) for figure in ("top1", "test_loss")),
        ("table5", "top1"), ("figure1", "top1"), ("imagenet", "top1"), ("imagenet", "test_loss"),
    }  # fmt: skip
    assert counts["table5", "test_loss"] == 2
    assert sum(counts.values()) == sum(full.values()) + 2


def test_figures_2_to_5_are_of_the_four_models_of_their_legend():
    experiment = paper("table3")
    quantities = {plot.name: plot.quantity for plot in experiment.plots}
    assert quantities == {
        "figure2": "accuracy", "figure3": "evaluation_loss", "figure4": "train_top1",
        "figure5": "loss", "figure11a": "accuracy", "figure11b": "evaluation_loss",
    }  # fmt: skip
    for plot in experiment.plots[:4]:
        assert set(plot.cells) == {
            f"{model}-{optim}"
            for model in ("resnet50", "resnet20", "densenet121", "wide_resnet50_2")
            for optim in ("sgd", "orth_sgd")
        }
    assert {len(plot.cells) for plot in experiment.plots[4:]} == {20}


SMALL = """\
title: A title
options_from: shared.yaml
options: {b: 2}
rows:
  one: {label: One, c: 3}
  two: {label: Two, c: 4, d: 5}
columns:
  sgd: {label: SGD, optim: sgd}
  adam: {label: Adam, optim: adam, betas: [$c, 0.5], c: null, b: 9}
tables:
  - title: Accuracy
    figure: top1
    paper:
      one: [1.5 ± 0.5, null]
      two: [diverged, 3]
plots:
  - {name: p, title: P, quantity: accuracy, rows: [two]}
"""


@pytest.fixture
def read(tmp_path):
    (tmp_path / "shared.yaml").write_text("{a: 1, b: 1}")

    def read(text):
        (tmp_path / "small.yaml").write_text(text)
        return read_experiment(tmp_path / "small.yaml")

    return read


def test_options_of_column_row_and_base_come_in_that_order(read):
    experiment = read(SMALL)
    assert {cell.name: dict(cell.options) for cell in experiment.cells} == {
        "one-sgd": {"a": 1, "b": 2, "c": 3, "optim": "sgd"},
        "one-adam": {"a": 1, "b": 9, "optim": "adam", "betas": [3, 0.5]},
        "two-sgd": {"a": 1, "b": 2, "c": 4, "d": 5, "optim": "sgd"},
        "two-adam": {"a": 1, "b": 9, "d": 5, "optim": "adam", "betas": [4, 0.5]},
    }
    assert experiment.rows == {"one": "One", "two": "Two"}
    assert experiment.tables[0].paper == {
        "one-sgd": (1.5, 0.5), "two-sgd": (None, None), "two-adam": (3.0, None),
    }  # fmt: skip
    assert experiment.plots[0].cells == ("two-sgd", "two-adam")
    assert (experiment.command, experiment.data, experiment.seeds) == ("supervised", "cifar10", 1)


@pytest.mark.parametrize("line", ["command: pretrain", "script: pretrain.py"])
def test_the_command_may_be_named_as_a_script(read, line):
    assert read(SMALL.replace("title: A title", f"{line}\ntitle: A title")).command == "pretrain"


def test_no_and_on_are_words_as_in_a_configuration(read):
    base = "{mixed_precision: no, tracker: on, nesterov: true, linear_probe: false}"
    cell = read(SMALL.replace("options: {b: 2}", f"options: {base}")).cells[0]
    words = {name: cell.options[name] for name in ("mixed_precision", "tracker")}
    assert words == {"mixed_precision": "no", "tracker": "on"}
    assert (cell.options["nesterov"], cell.options["linear_probe"]) == (True, False)


def test_cells_are_left_out(read):
    experiment = read(SMALL.replace("tables:", "leave_out: [one-adam]\ntables:"))
    assert [cell.name for cell in experiment.cells] == ["one-sgd", "two-sgd", "two-adam"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: A title", "titel: A title", "unknown key 'titel' (did you mean title?)"),
        ("title: A title\n", "", "title is missing"),
        ("title: A title", "script: a.py\ncommand: a\ntitle: A", "give command, without script"),
        ("title: A title", "command: supervise\ntitle: A", "(did you mean supervised?)"),
        ("  two: {label: Two, c: 4", "  one: {label: Two, c: 4", "line 6: 'one' is there twice"),
        ("      two: [div", "      one: [div", "line 15: 'one' is there twice"),
        ("      two: [div", "      tow: [div", "Accuracy: 'tow' is not a row (did you mean two?)"),
        ("[diverged, 3]", "[diverged]", "Accuracy, two: needs a list of 2 figures"),
        ("[diverged, 3]", "[diverged, 3 +- 1]", "Accuracy, two-adam: '3 +- 1' must be MEAN ± ERROR"),
        ("[diverged, 3]", "[nan, 3]", "'nan' must be"),
        ("rows: [two]", "rows: [too]", "plot p: 'too' is not a row (did you mean two?)"),
        ("rows: [two]", "x: time", "x='time' must be epoch or step"),
        ("rows: [two]", "row: [two]", "unknown key 'row' (did you mean rows?)"),
        ("[$c, 0.5]", "[$cc, 0.5]", "one-adam: $cc names no option (did you mean c?)"),
        ("{label: One, c: 3}", "{c: 3}", "rows, one: must be a mapping with a label"),
        ("  one: {label: One", "  One: {label: One", "key 'One' must be of lower-case letters"),
        ("options: {b: 2}", "options: {seed: 2}", "seed is not an option of a cell"),
        ("tables:", "leave_out: [one-adm]\ntables:", "'one-adm' is not a cell (did you mean one-adam?)"),
        ("tables:", "leave_out: [two-adam]\ntables:", "two-adam is left out, yet has a figure"),
        ("tables:", "seeds: 0\ntables:", "seeds=0 must be a whole number from 1"),
        ("title: A title", "title: [", "small.yaml"),
        ("plots:", "  - {title: Again, figure: top1}\nplots:", "tables: 2 have figure='top1', which"),
        ("[two]}", "[two]}\n  - {name: p, title: Q, quantity: loss}", "plots: 2 have name='p', which"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(read, old, new, message):
    assert SMALL.count(old) == 1
    with pytest.raises(ValueError, match=r"small\.yaml") as caught:
        read(SMALL.replace(old, new))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "figure"),
    [("73.60 ± 0.19", (73.6, 0.19)), (61.9, (61.9, None)), (3, (3.0, None)),
     ("diverged", (None, None))],
)  # fmt: skip
def test_a_figure_is_a_mean_and_perhaps_its_error(text, figure):
    assert parse_figure(text) == figure


@pytest.mark.parametrize("text", ["", "1 ± ", "1 ± 2 ± 3", "± 1", True, None, "1.2.3"])
def test_other_text_is_not_a_figure(text):
    with pytest.raises(ValueError, match="must be MEAN"):
        parse_figure(text)
