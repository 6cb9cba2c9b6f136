import csv
import fcntl
import json
import math
import statistics

import numpy as np
import pytest
from matplotlib.image import imread

from sslortho.experiments import plots, write_report
from sslortho.experiments.grid import Cell, Experiment, Plot, Table
from sslortho.experiments.plots import (
    mean_line,
    plot_lines,
    read_records,
    run_points,
    running_mean,
)
from sslortho.experiments.report import epochs_to_reach

ROWS = {"basic_cnn": "BasicCNN", "resnet20": "resnet20"}
COLUMNS = {"sgd": "SGDM", "orth_sgd": "Orthogonal-SGDM"}
OPTIONS = {"epochs": 100, "batch_size": 1024, "lr": 0.01, "milestones": [50, 75]}


def experiment(rows=ROWS, columns=COLUMNS, seeds=3, **changed):
    cells = tuple(Cell(r, c, {**OPTIONS, "backbone": r, "optim": c}) for r in rows for c in columns)
    paper = {"basic_cnn-sgd": (73.6, 0.19), "basic_cnn-orth_sgd": (76.67, 0.1)}
    paper |= {"resnet20-sgd": (91.25, None), "resnet20-orth_sgd": (None, None)}
    kept = {
        "tables": (Table("Table 3: accuracy", "top1", paper), Table("Loss", "test_loss", {})),
        "plots": (),
        "notes": (),
    }
    return Experiment("table3", "Ten models", "supervised.py", seeds, rows, columns, cells,
                      **{**kept, **changed})  # fmt: skip


class Runs:
    """Folders of runs, written by hand."""

    def __init__(self, out):
        self.out = out

    def folder(self, cell, seed):
        folder = self.out / "runs" / f"{cell}-s{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def begin(self, cell, seed=0, records=(), epochs=100):
        folder = self.folder(cell, seed)
        (folder / "config.yaml").write_text(f"data: cifar10\nepochs: {epochs}\nlr: 0.01\n")
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "metrics.jsonl").write_text(text)
        return folder

    def finish(self, cell, seed=0, top1: float | None = 80.0, records=(), options=(), **figures):
        folder = self.begin(cell, seed, records)
        row, column = cell.split("-")
        config = {**OPTIONS, "backbone": row, "optim": column, "data": "cifar10", "data_dir": "D",
                  "subset": None, "seed": seed, **dict(options)}  # fmt: skip
        summary = {"top1": top1, "test_loss": 0.5, "diverged": False, "config": config, **figures}
        (folder / "summary.json").write_text(json.dumps(summary))

    def diverge(self, cell, seed=0, records=()):
        self.finish(cell, seed, None, records, test_loss=None, diverged=True)

    def log(self, cell, seed, text):
        path = self.out / "logs" / f"{cell}-s{seed}.log"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
        return path

    def report(self, of=None, **asked):
        return write_report(of or experiment(), self.out, asked).read_text()


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path)


def table(text, title):
    """Cells of the table below a heading, by the row's first cell; the header's is empty."""
    lines = text.split(f"## {title}\n")[1].strip().splitlines()
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    del rows[1]
    return rows


def ours(text, row="BasicCNN", title="Table 3: accuracy"):
    """Our cells of a row: SGDM, Orthogonal-SGDM."""
    return next(cells for cells in table(text, title) if cells[0] == row)[1:4:2]


def section(text, title):
    return text.split(f"## {title}\n")[1].split("\n## ")[0].strip()


def accuracies(values, name="top1"):
    return [{"step": 10 * i, "epoch": i, name: value} for i, value in enumerate(values)]


# -- the table -------------------------------------------------------------------------------------


def test_mean_and_standard_error_stand_beside_the_papers(runs):
    values = [73.1, 74.4, 72.9]
    for seed, value in enumerate(values):
        runs.finish("basic_cnn-sgd", seed, value)
    mean, error = statistics.mean(values), statistics.stdev(values) / math.sqrt(3)
    header, first, second = table(runs.report(), "Table 3: accuracy")
    assert header == ["", "SGDM", "paper", "Orthogonal-SGDM", "paper"]
    assert first == ["BasicCNN", f"{mean:.2f} ± {error:.2f}", "73.60 ± 0.19", "-", "76.67 ± 0.10"]
    assert second == ["resnet20", "-", "91.25", "-", "diverged"]


def test_the_csv_has_plain_numbers_in_full(runs):
    values = [73.123456, 74.4]
    for seed, value in enumerate(values):
        runs.finish("basic_cnn-sgd", seed, value)
    runs.diverge("resnet20-orth_sgd")
    runs.report()
    with (runs.out / "top1.csv").open() as file:
        first, _, third, fourth = csv.DictReader(file)
    assert float(first["mean"]) == pytest.approx(np.mean(values), rel=1e-14)
    assert float(first["stderr"]) == pytest.approx(np.std(values, ddof=1) / 2**0.5, rel=1e-12)
    assert (first["n"], first["paper_mean"], first["paper_stderr"]) == ("2", "73.6", "0.19")
    assert (third["mean"], third["n"], third["paper_stderr"]) == ("", "0", "")
    assert (fourth["diverged"], fourth["paper_mean"]) == ("1", "diverged")


def test_a_number_of_seeds_that_is_not_the_experiments_is_said(runs):
    runs.finish("basic_cnn-sgd", 0, 70.0)
    for seed in range(4):
        runs.finish("basic_cnn-orth_sgd", seed, 70.0 - seed)
    assert ours(runs.report()) == ["**70.00** (1)", "68.50 ± 0.65 (4)"]


def test_the_best_of_a_row_is_bold_by_the_sense_of_the_figure(runs):
    for seed in range(3):
        runs.finish("basic_cnn-sgd", seed, 70.0, test_loss=0.7)
        runs.finish("basic_cnn-orth_sgd", seed, 75.0, test_loss=0.8)
    text = runs.report()
    assert ours(text) == ["70.00 ± 0.00", "**75.00** ± 0.00"]
    # the paper says nothing of this one, and has no columns
    assert table(text, "Loss")[1] == ["BasicCNN", "**0.7000** ± 0.0000", "0.8000 ± 0.0000"]


def test_a_mean_alone_in_its_row_is_not_the_best(runs):
    runs.finish("basic_cnn-sgd", 0, 70.0)
    assert ours(runs.report()) == ["70.00 (1)", "-"]


def test_diverged_runs_have_no_part_in_the_mean(runs):
    for seed in range(3):
        runs.diverge("basic_cnn-sgd", seed)
        runs.finish("basic_cnn-orth_sgd", seed, 60.0 + seed)
    runs.diverge("basic_cnn-orth_sgd", 3)
    runs.diverge("resnet20-sgd", 0)
    text = runs.report()
    assert ours(text) == ["diverged", "61.00 ± 0.58, 1 of 4 diverged"]
    assert ours(text, "resnet20") == ["diverged (1)", "-"]
    assert "8 of 13 runs finished (5 of them diverged), 0 under way, 0 failed." in text


def test_what_a_diverged_run_had_before_is_no_result(runs):
    runs.finish("basic_cnn-sgd", 0, 10.0, diverged=True)
    runs.finish("basic_cnn-sgd", 1, 70.0)
    assert ours(runs.report())[0] == "70.00 (1), 1 of 2 diverged"


@pytest.mark.parametrize("value", [float("nan"), None, "70", True, float("inf")])
def test_what_is_no_number_is_no_figure(runs, value):
    runs.finish("basic_cnn-sgd", 0, value)
    runs.finish("basic_cnn-orth_sgd", 0, value)
    runs.finish("basic_cnn-orth_sgd", 1, 50.0)
    assert ours(runs.report()) == ["no figure", "50.00 (1)"]


def test_how_far_runs_under_way_are(runs):
    runs.begin("basic_cnn-sgd", 0, [{"step": 5, "epoch": 3, "loss": 1.0}])
    runs.begin("basic_cnn-sgd", 1, [{"step": 50, "epoch": 12, "loss": 1.0}], epochs=40)
    runs.begin("basic_cnn-orth_sgd", 0)
    text = runs.report()
    assert ours(text) == ["epoch 12 of 40", "epoch 0 of 100"]
    assert "0 of 12 runs finished, 3 under way, 0 failed." in text


def test_a_run_fails_stops_or_goes_on_as_its_log_says(runs):
    runs.begin("basic_cnn-sgd", 0, [{"step": 5, "epoch": 3, "loss": 1.0}])
    runs.log(
        "basic_cnn-sgd", 0, "$ python\nstopped by SIGTERM at step 7; the same command resumes\n"
    )
    runs.begin("basic_cnn-orth_sgd", 0, [{"step": 5, "epoch": 4, "loss": 1.0}])
    held = runs.log("basic_cnn-orth_sgd", 0, "$ python\n")
    runs.begin("resnet20-sgd", 0, [{"step": 5, "epoch": 5, "loss": 1.0}])
    lines = [f"line {i}" for i in range(9)]
    runs.log("resnet20-sgd", 0, "0 %\r1 %\r" + "\n\n".join([*lines, "```", "Error: no memory"]))
    runs.log("resnet20-orth_sgd", 0, "")
    with held.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        text = runs.report()
    assert ours(text) == ["stopped at epoch 3 of 100", "epoch 4 of 100"]
    assert ours(text, "resnet20") == ["failed", "failed"]
    assert "0 of 12 runs finished, 1 under way, 1 stopped, 2 failed." in text
    said = section(text, "Failed runs").splitlines()
    assert said[0] == "resnet20-sgd-s0, end of logs/resnet20-sgd-s0.log:"
    assert said[2:9] == ["````text", *lines[-3:], "```", "Error: no memory", "````"]


def test_a_finished_run_has_a_log_too(runs):
    runs.finish("basic_cnn-sgd", 0, 70.0)
    runs.log("basic_cnn-sgd", 0, "$ python\n")
    text = runs.report()
    assert ours(text)[0] == "70.00 (1)"
    assert "## Failed runs" not in text


def test_many_columns_have_the_papers_figures_below(runs):
    columns = {c: c.upper() for c in ("sgd", "orth_sgd", "adam", "orth_adam")}
    runs.finish("basic_cnn-adam", 0, 70.0)
    lines = table(runs.report(experiment(columns=columns)), "Table 3: accuracy")
    assert lines[0] == ["", "", "SGD", "ORTH_SGD", "ADAM", "ORTH_ADAM"]
    assert lines[1] == ["BasicCNN", "ours", "-", "-", "70.00 (1)", "-"]
    assert lines[2] == ["", "paper", "73.60 ± 0.19", "76.67 ± 0.10", "-", "-"]


def test_cells_that_are_left_out_are_empty(runs):
    whole = experiment()
    some = experiment(rows=dict(ROWS))
    some = Experiment(**{**vars(some), "cells": whole.cells[:3]})
    assert table(runs.report(some), "Table 3: accuracy")[2] == ["resnet20", "-", "91.25", "", ""]


# -- the claim -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("curve", "target", "epoch"),
    [
        ({0: 10, 1: 60, 2: 55, 3: 70}, 60, 1),
        ({0: 10, 5: 60, 10: 70}, 61, 10),
        ({0: 10}, 11, None),
        ({}, 1, None),
    ],
)
def test_the_first_epoch_at_or_above(curve, target, epoch):
    assert epochs_to_reach(curve, target) == epoch


SPEED = "Epochs that Orthogonal-SGDM took to reach the final accuracy of SGDM"


def test_epochs_that_orth_sgd_took_to_reach_sgd(runs):
    # SGD ends at 50 on average; 45 and 60 of the others are before and after it
    runs.finish("basic_cnn-sgd", 0, records=accuracies([10, 20, 30, 40, 48]))
    runs.finish("basic_cnn-sgd", 1, records=accuracies([10, 20, 70, 40, 52]))
    runs.finish("basic_cnn-orth_sgd", 0, records=accuracies([10, 50, 60, 61, 62]))
    runs.finish("basic_cnn-orth_sgd", 1, records=accuracies([10, 45, 60, 61, 62]))
    runs.finish("resnet20-sgd", 0, records=accuracies([10, 50]))
    runs.begin("resnet20-orth_sgd", 0, accuracies([10, 60]))  # under way: not yet to be judged
    lines = table(runs.report(), SPEED)
    assert lines[1:] == [["BasicCNN", "50.00", "1.5", "37.5 %", "4"]]


def test_what_never_gets_there_is_said(runs):
    runs.finish("basic_cnn-sgd", 0, records=accuracies([10, 20, 30], "val_top1"))
    runs.finish("basic_cnn-orth_sgd", 0, records=accuracies([10, 30, 40], "val_top1"))
    runs.finish("basic_cnn-orth_sgd", 1, records=accuracies([10, 20, 29], "val_top1"))
    runs.finish("resnet20-sgd", 0, records=accuracies([10, 50]))
    runs.finish("resnet20-orth_sgd", 0, records=accuracies([10, 20]))
    lines = table(runs.report(), SPEED)
    assert lines[1] == ["BasicCNN", "30.00", "1, not reached by 1 of 2", "50.0 %", "2"]
    assert lines[2] == ["resnet20", "50.00", "not reached", "-", "1"]


def test_no_claim_without_both(runs):
    runs.finish("basic_cnn-orth_sgd", 0, records=accuracies([10, 30, 40]))
    runs.diverge("basic_cnn-sgd", 0, accuracies([10, 5]))
    assert SPEED not in runs.report()


# -- what differs ----------------------------------------------------------------------------------


def all_finished(runs, options=(), seeds=3):
    for cell in experiment().cells:
        for seed in range(seeds):
            runs.finish(cell.name, seed, options=options)


DIFFERS = "What differs from the paper"


def test_nothing_differs(runs):
    all_finished(runs, {"workers": 3, "milestones": [50.0, 75.0], "epochs": 100.0})
    assert section(runs.report(), DIFFERS).startswith("Nothing:")


def test_every_option_that_differs_is_said_with_both_values(runs):
    options = {"epochs": 5, "milestones": [2.5, 3.75], "data": "digits", "subset": 500}
    all_finished(runs, {**options, "validation": 0.1, "threads": 1}, seeds=2)
    of = experiment(notes=("The paper's curves are of *one* run each.",))
    text = runs.report(of, epochs=5, subset=500, data="digits", validation=0.1, seeds=2, threads=1)
    assert sorted(section(text, DIFFERS).splitlines()) == [
        "- The paper's curves are of *one* run each.",
        "- data: digits instead of cifar10",
        "- epochs: 5 instead of 100",
        "- milestones: 2.5, 3.75 instead of 50, 75",
        "- seeds: 2 finished of each cell instead of 3",
        "- subset: 500 instead of none",
        "- validation: 0.1 instead of its default",
    ]
    assert "8 of 8 runs finished" in text
    assert "- asked for: epochs 5, subset 500, data digits, validation 0.1, seeds 2\n" in text


def test_what_some_runs_differ_in_names_their_cells(runs):
    all_finished(runs)
    for seed in range(3):
        runs.finish("resnet20-sgd", seed, options={"batch_size": 512})
    said = section(runs.report(), DIFFERS)
    assert said == "- batch_size: 512 instead of 1024 (resnet20-sgd)"


def test_runs_of_one_cell_that_differ_among_themselves_are_told(runs):
    all_finished(runs)
    runs.finish("resnet20-sgd", 1, options={"epochs": 5})
    said = section(runs.report(), DIFFERS)
    assert "- **the runs of resnet20-sgd differ from each other in epochs**" in said.splitlines()


def test_memory_where_cells_differ_in_it(runs):
    for cell, size in (("basic_cnn-sgd", 0), ("basic_cnn-orth_sgd", 400), ("resnet20-sgd", 802)):
        runs.finish(cell, parameter_bytes=400, optimizer_state_bytes=size)
    lines = table(runs.report(), "Memory")
    assert lines[1:] == [["BasicCNN", "2 n", "3 n"], ["resnet20", "4 n", "-"]]
    for cell in experiment().cells:
        runs.finish(cell.name, parameter_bytes=400, optimizer_state_bytes=400)
    assert "## Memory" not in runs.report()


def test_commands_machine_and_versions(runs):
    runs.finish("basic_cnn-sgd", hardware="1 process(es), H100", versions={"torch": "2.9"},
                command="python scripts/supervised.py --lr 0.01")  # fmt: skip
    text = runs.report(epochs=5, data_dir="my data", only="basic_cnn,sgd")
    command = (
        "python scripts/reproduce.py table3 --epochs 5 --data_dir 'my data' --only basic_cnn,sgd"
    )
    assert f"```bash\n{command}\n```" in text
    assert "```bash\npython scripts/supervised.py --lr 0.01\n```" in text
    assert "- hardware: 1 process(es), H100\n- versions: torch 2.9\n" in text


# -- what is not whole -----------------------------------------------------------------------------


def test_nothing_is_there_yet(runs):
    of = experiment(plots=(Plot("figure2", "Figure 2", "accuracy", (), "epoch"),))
    text = write_report(of, runs.out / "not" / "yet", {}).read_text()
    assert "0 of 12 runs finished, 0 under way, 0 failed." in text
    assert "Figure 2: no run has recorded accuracy yet." in text
    assert section(text, DIFFERS) == "No run is finished yet."


def test_files_that_are_cut_or_odd_do_not_stop_the_report(runs):
    first = runs.begin("basic_cnn-sgd", 0)
    (first / "metrics.jsonl").write_bytes(
        b'{"step": 1, "epoch": 0, "top1": 10}\n{"step": 2, "ep\xff'
    )
    (first / "summary.json").write_text('{"top1": 12')
    second = runs.begin("basic_cnn-orth_sgd", 0)
    (second / "metrics.jsonl").write_text('[1]\n{"epoch": 1}\n{"step": "a", "epoch": 1}\nnull\n')
    (second / "summary.json").write_text('["no mapping"]')
    (runs.folder("resnet20-sgd", 0) / "summary.json").write_text('{"top1": 40.0}')
    (runs.folder("resnet20-orth_sgd", 0) / "metrics.jsonl").mkdir()
    of = experiment(plots=(Plot("figure2", "Figure 2", "accuracy", (), "epoch"),))
    text = runs.report(of)
    assert ours(text) == ["epoch 0 of 100", "epoch 0 of 100"]
    assert ours(text, "resnet20") == ["40.00 (1)", "epoch 0 of 100"]
    assert [dict(r) for r in read_records(first)] == [{"step": 1, "epoch": 0, "top1": 10}]
    assert read_records(second) == []


def test_a_cell_whose_name_begins_as_anothers_is_not_taken_for_it(runs):
    columns = {"sgd": "SGDM", "sgd-s1": "other"}
    runs.finish("basic_cnn-sgd", 1, 70.0)
    folder = runs.folder("basic_cnn-sgd-s1", 0)
    (folder / "summary.json").write_text('{"top1": 40.0}')
    assert ours(runs.report(experiment(columns=columns))) == ["**70.00** (1)", "40.00 (1)"]


# -- curves ----------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("count", [1, 7, 120])
def test_running_mean(count):
    values = np.random.default_rng(0).normal(size=count)
    reach = [min(25, i, count - 1 - i) for i in range(count)]
    literal = [np.mean(values[i - r : i + r + 1]) for i, r in enumerate(reach)]
    np.testing.assert_allclose(running_mean(values, 50), literal, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("quantity", "recorded", "label"),
    [
        ("accuracy", "val_top1", "validation top-1 (%)"),
        ("accuracy", "top1", "test top-1 (%)"),
        ("evaluation_loss", "val_loss", "validation loss"),
        ("evaluation_loss", "test_loss", "test loss"),
        ("filter_cosine/conv", "filter_cosine/conv", "filter_cosine/conv"),
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
    np.testing.assert_allclose(axis.lines[0].get_ydata(), running_mean(counts, 50))
    assert axis.get_xlabel() == "step"


@pytest.mark.parametrize(
    ("values", "scale"), [([2.3, 1.0], "linear"), ([2.3, 0.01], "log"), ([2.3, 0.0], "linear")]
)
def test_losses_have_a_logarithmic_axis_where_it_helps(runs, figures, values, scale):
    records = [{"step": i + 1, "epoch": i, "loss": value} for i, value in enumerate(values)]
    runs.begin("resnet20-sgd", 0, records)
    runs.report(experiment(plots=(Plot("f", "F", "loss", (), "epoch"),)))
    assert figures["f.png"].axes[0].get_yscale() == scale
