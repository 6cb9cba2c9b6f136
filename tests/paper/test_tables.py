import csv
import math
import statistics

import numpy as np
import pytest
from helpers.report_runs import ROWS, experiment, ours, table

from sslortho.paper.grid import Experiment


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
    assert ours(runs.report()) == ["70.00 (1)", "68.50 ± 0.65 (4)"]


def test_the_best_of_a_row_is_bold_by_the_sense_of_the_figure(runs):
    for seed in range(3):
        runs.finish("basic_cnn-sgd", seed, 70.0, test_loss=0.7)
        runs.finish("basic_cnn-orth_sgd", seed, 75.0, test_loss=0.8)
    text = runs.report()
    assert ours(text) == ["70.00 ± 0.00", "**75.00** ± 0.00"]
    # the paper says nothing of this one, and has no columns
    assert table(text, "Loss")[1] == ["BasicCNN", "**0.7000** ± 0.0000", "0.8000 ± 0.0000"]


@pytest.mark.parametrize(
    ("sgd", "orth_sgd", "bold"),
    [
        ([70, 72], [74, 77], True),  # 71 ± 1 and 75.5 ± 1.5
        ([70, 72], [71, 75], False),  # 73 ± 2
        ([70, 72, 71], [80, 81], False),
        ([70], [80], False),
        ([70, 72], [70, 72], False),
    ],
)
def test_a_lead_is_bold_only_if_seeds_and_standard_errors_allow_it(runs, sgd, orth_sgd, bold):
    for cell, values in (("basic_cnn-sgd", sgd), ("basic_cnn-orth_sgd", orth_sgd)):
        for seed, value in enumerate(values):
            runs.finish(cell, seed, float(value))
    plain, orthogonal = ours(runs.report())
    assert "**" not in plain
    assert orthogonal.startswith("**") == bold


def test_the_best_leads_all_others_of_its_row(runs):
    columns = {"sgd": "A", "orth_sgd": "B", "adam": "C"}
    of = experiment(columns=columns)

    def bold(third):
        for column, mean in (("sgd", 60), ("orth_sgd", 70), ("adam", third)):
            for seed in range(3):
                runs.finish(f"basic_cnn-{column}", seed, mean + seed - 1.0)
        row = table(runs.report(of), "Table 3: accuracy")[1]
        return [cell.split()[0] for cell in row if "**" in cell]

    assert bold(72.0) == ["**72.00**"]  # errors of 0.58 each
    assert bold(71.0) == []
    assert bold(50.0) == ["**70.00**"]


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
