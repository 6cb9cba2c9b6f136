import csv
import io
import math
import statistics
import subprocess
import sys

import pytest

from sslortho.recipes.run_options import ignored_options
from sslortho.runs.several import comparison
from sslortho.runs.several.comparison import Run
from sslortho.runs.several.comparison_tables import to_csv, to_markdown


def compare_runs(*arguments, **options):
    """The comparison with the ignored options that the command has."""
    return comparison.compare_runs(*arguments, **options, ignored=ignored_options())


def run(folder, figures, origin=None, **config):
    usual = {
        "data": "digits",
        "optim": "lars",
        "lr": 1.0,
        "seed": 0,
        "out": folder,
        "workers": None,
    }
    return Run(folder, {**figures, "config": {**usual, **config}}, origin)


def members(table):
    return [[r.folder for r in row.runs] for row in table.rows]


def seeds(name, values, **config):
    return [run(f"{name}-{i}", {"top1": v}, seed=i, **config) for i, v in enumerate(values)]


def table(compared):
    """Rows of cells of the Markdown, the header first."""
    lines = [line for line in to_markdown(compared).splitlines() if line.startswith("|")]
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in lines
        if "---" not in line
    ]


def records(compared):
    return list(csv.DictReader(io.StringIO(to_csv(compared))))


def test_mean_and_standard_error_are_those_of_the_seeds():
    values = [90.1, 91.7, 89.2, 95.0]
    (row,) = compare_runs(seeds("a", values)).rows
    found = row.figures["top1"]
    assert found.mean == pytest.approx(statistics.mean(values), rel=1e-14)
    assert found.stderr == pytest.approx(statistics.stdev(values) / 4**0.5, rel=1e-14)
    assert found.count == 4


def test_two_values_by_hand():
    (row,) = compare_runs(seeds("a", [1.0, 3.0])).rows
    # s = sqrt(((1 - 2)^2 + (3 - 2)^2) / 1) = sqrt(2), over sqrt(2)
    assert (row.figures["top1"].mean, row.figures["top1"].stderr) == (2.0, pytest.approx(1.0))


def test_one_run_has_no_error():
    compared = compare_runs(seeds("a", [97.5]))
    assert compared.rows[0].figures["top1"].stderr is None
    assert "±" not in to_markdown(compared)
    assert records(compared)[0]["top1_stderr"] == ""


def test_runs_that_differ_in_seed_and_in_where_they_ran_are_one_row():
    runs = [
        run("x/a", {"top1": 1.0}, workers=4, threads=1, trackers="none", debug=True),
        run("y/b", {"top1": 2.0}, seed=1, workers=8, log_every=1, pictures=False),
    ]
    assert members(compare_runs(runs)) == [["x/a", "y/b"]]


@pytest.mark.parametrize(
    "other",
    [
        {"rank_timeout": 60.0},
        {"evaluate_every": 0},
        {"max_bad_steps": 3},
        {"loader": "files"},
        {"follow_links": True},
        {"log_layers": True},
    ],
)
def test_seeds_that_differ_in_an_option_without_effect_are_one_row(other):
    runs = [run("a", {"top1": 1.0}), run("b", {"top1": 2.0}, seed=1, **other)]
    compared = compare_runs(runs)
    assert members(compared) == [["a", "b"]]
    assert not compared.notes


@pytest.mark.parametrize("other", [{"unheard_of": 1}, {"cache": "process"}, {"share": True}])
def test_an_option_that_no_command_has_counts_and_so_does_rounding(other):
    runs = [run("a", {"top1": 1.0}), run("b", {"top1": 2.0}, seed=1, **other)]
    assert len(compare_runs(runs).rows) == 2


def test_an_option_that_counts_makes_another_row_and_its_label():
    runs = seeds("a", [1.0, 2.0], lr=2.0) + seeds("b", [3.0], lr=10.0) + seeds("c", [4.0], lr=0.5)
    compared = compare_runs(runs)
    assert list(compared.columns) == ["lr"]
    assert [row.labels["lr"] for row in compared.rows] == [0.5, 2.0, 10.0]  # by number, not text
    assert [row[:2] for row in table(compared)] == [
        ["lr", "n"],
        ["0.5", "1"],
        ["2", "2"],
        ["10", "1"],
    ]


def test_an_option_left_at_null_is_the_same_as_one_that_was_not_there_yet():
    runs = [run("a", {"top1": 1.0}), run("b", {"top1": 1.0}, seed=1, new=None)]
    assert members(compare_runs(runs)) == [["a", "b"]]


def test_numbers_are_compared_by_value_and_are_not_truths():
    runs = [run("a", {"top1": 1.0}, lr=6), run("b", {"top1": 1.0}, lr=6.0, seed=1)]
    assert members(compare_runs(runs)) == [["a", "b"]]
    runs = [run("a", {"top1": 1.0}, x=1), run("b", {"top1": 1.0}, x=True, seed=1)]
    assert len(compare_runs(runs).rows) == 2


@pytest.mark.parametrize(("data", "rows"), [("cifar10", 1), ("folder", 2), ("beton", 2)])
def test_the_folder_of_the_data_counts_where_it_says_what_they_are(data, rows):
    runs = [run(d, {"top1": 1.0}, data=data, data_dir=d, seed=i) for i, d in enumerate("AB")]
    assert len(compare_runs(runs).rows) == rows


def evaluation(folder, source, origin=None, seed=0):
    return run(folder, {"top1": 1.0}, origin, backbone_from=source, seed=seed)


@pytest.mark.parametrize(
    ("sources", "label"),
    [
        (["runs/a-s0", "runs/a-s1"], "runs/a-s*"),
        (["runs/a-0", "runs/a-12"], "runs/a-*"),
        (
            ["r/a-0/backbone.safetensors", "r/a-1/backbone.safetensors"],
            "r/a-*/backbone.safetensors",
        ),
    ],
)
def test_unknown_backbones_whose_paths_differ_in_a_last_number_are_one_row(sources, label):
    runs = [evaluation(f"e{i}", source) for i, source in enumerate(sources)]
    compared = compare_runs([*runs, evaluation("f", "runs/other")])
    assert members(compared) == [["e0", "e1"], ["f"]]
    assert compared.rows[0].labels["backbone_from"] == label
    (note,) = compared.notes  # and these are two seeds, not one twice
    assert all(source in note for source in sources)
    assert "taken for a seed" in note


@pytest.mark.parametrize(
    "sources", [("runs/a0", "runs/a1"), ("runs/a-0", "runs/b-0"), ("a-0x", "a-1x")]
)
def test_other_backbones_are_other_rows(sources):
    assert len(compare_runs([evaluation(s, s) for s in sources]).rows) == 2


def test_known_backbones_are_compared_by_what_they_are():
    def origin(seed, lr):
        return {"data": "digits", "lr": lr, "seed": seed, "out": f"runs/{seed}{lr}"}

    runs = [
        evaluation("e1", "runs/first", origin(0, 6.0)),
        evaluation("e2", "elsewhere/second", origin(1, 6.0)),
        evaluation("e3", "runs/grid-2", origin(0, 2.0)),
        evaluation("e4", "runs/grid-20", origin(0, 20.0)),  # a rate at the end, no seed
    ]
    compared = compare_runs(runs)
    assert sorted(members(compared)) == [["e1", "e2"], ["e3"], ["e4"]]
    assert not compared.notes
    twice = compare_runs([runs[0], evaluation("e5", "runs/first", origin(0, 6.0))])
    assert "seed more than once: e1, e5" in twice.notes[0]


def test_a_seed_that_is_there_twice_is_reported():
    compared = compare_runs([*seeds("a", [1.0, 2.0]), run("again", {"top1": 3.0}, seed=1)])
    assert compared.notes == ["one row has a seed more than once: a-0, a-1, again"]
    assert compared.notes[0] in to_markdown(compared)


def test_without_options_that_differ_the_folder_is_the_label():
    compared = compare_runs(seeds("runs/orth_lars", [1.0, 2.0]))
    assert compared.rows[0].labels == {"run": "orth_lars-*"}
    assert table(compared)[1][0] == r"orth_lars-\*"
    assert compare_runs(seeds("runs/a", [1.0])).rows[0].labels == {"run": "a-0"}


def test_runs_of_different_kinds_are_told_apart_by_what_both_have_or_by_name():
    pretraining = run("runs/pretrain", {"loss": 5.0}, projector="64-64", epochs=13)
    knn = run("runs/knn", {"top1": 90.0}, k=20, temperature=0.07)
    compared = compare_runs([pretraining, knn])
    assert list(compared.columns) == ["run"]
    assert table(compared) == [
        ["run", "n", "top1", "loss"],
        ["knn", "1", "90.00", "-"],
        ["pretrain", "1", "-", "5.000"],
    ]
    linear = run("runs/linear", {"top1": 91.0}, epochs=100)
    compared = compare_runs([pretraining, linear])
    assert list(compared.columns) == ["epochs"]  # which both have


def test_rows_of_one_name_in_two_places_are_told_apart_by_the_whole_path():
    runs = [run("x/a", {"top1": 1.0}, k=1), run("y/a", {"top1": 1.0}, temperature=2)]
    assert [row.labels["run"] for row in compare_runs(runs).rows] == ["x/a", "y/a"]


def test_by_makes_rows_of_what_agrees_in_these_options_and_says_what_does_not():
    runs = seeds("a", [1.0, 2.0], lr=2.0) + seeds("b", [3.0], lr=10.0)
    compared = compare_runs(runs, by=["optim"])
    assert members(compared) == [["a-0", "a-1", "b-0"]]
    assert compared.rows[0].labels == {"optim": "lars"}
    assert any("differ in lr" in note for note in compared.notes)
    assert len(compare_runs(runs, by=["seed"]).rows) == 2
    assert len(compare_runs(runs, by=["lr", "seed"]).rows) == 3


def test_only_measurements_are_figures_the_most_telling_first():
    summary = {
        "untrained_knn_top1": 5.0,
        "rankme": 3.0,
        "loss": 1.0,
        "steps": 143,
        "seconds_this_session": 9.0,
        "command": "x",
        "versions": {"torch": "2"},
        "ok": True,
        "knn_top1": 90.0,
        "anything_new": 7,
        "never": None,
    }
    expected = ["knn_top1", "loss", "rankme", "anything_new", "untrained_knn_top1"]
    assert list(compare_runs([run("a", summary)]).figures) == expected
    assert list(compare_runs([run("a", summary)], figures=["steps", "loss"]).figures) == [
        "steps",
        "loss",
    ]


def test_what_no_run_has_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"figures='top_1'.*did you mean top1\?"):
        compare_runs(seeds("a", [1.0]), figures=["top_1"])
    with pytest.raises(ValueError, match=r"by='optin'.*did you mean optim\?"):
        compare_runs(seeds("a", [1.0]), by=["optin"])
    with pytest.raises(ValueError, match="no finished run"):
        compare_runs([])


def test_a_figure_that_some_seeds_lack_says_of_how_many_it_is():
    runs = seeds("a", [1.0, 3.0, None])
    assert table(compare_runs(runs))[1][2] == "2.00 ± 1.00 (2 of 3)"
    record = records(compare_runs(runs))[0]
    assert (record["n"], record["top1_n"]) == ("3", "2")


def test_the_best_accuracy_is_the_highest_and_the_best_loss_the_lowest():
    figures = ["top1", "loss", "rankme", "best_top1"]
    rows = {"a": (90, 5.5, 2, 1), "b": (95, 7.5, 3, 2), "c": (95, 5.5, 1, 3)}
    runs = [run(n, dict(zip(figures, v, strict=True)), optim=n) for n, v in rows.items()]
    assert table(compare_runs(runs)) == [
        ["optim", "n", *figures],
        ["a", "1", "90.00", "**5.500**", "2.000", "1.00"],
        ["b", "1", "**95.00**", "7.500", "3.000", "2.00"],
        ["c", "1", "**95.00**", "**5.500**", "1.000", "3.00"],
    ]
    assert "**" not in to_markdown(compare_runs(runs[:1]))


def test_what_is_shown_as_equal_is_equally_good():
    runs = [*seeds("a", [90.001], optim="x"), *seeds("b", [90.002], optim="y")]
    assert [row[2] for row in table(compare_runs(runs))[1:]] == ["**90.00**", "**90.00**"]


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("knn_top5", 99.9999, "100.00"),
        ("loss", 310.2345, "310.2"),
        ("loss", 0.0123456, "0.01235"),
        ("loss", 0.0, "0.00"),
        ("images_per_second", 59106.3, "59106"),
        ("rankme", 17.0421, "17.04"),
    ],
)
def test_numbers_have_the_digits_that_they_need(name, value, shown):
    assert table(compare_runs([run("a", {name: value})]))[1][2] == shown


def test_what_means_something_to_markdown_is_escaped_and_columns_line_up():
    runs = [run("a", {"top1": 1.0}, optim="x|y*_"), run("b", {"top1": 100.0}, optim="plain")]
    text = to_markdown(compare_runs(runs))
    assert r"| x\|y\*\_ |" in text
    assert len({len(line) for line in text.splitlines() if line.startswith("|")}) == 1


def test_the_csv_has_plain_numbers_in_full_and_the_folders():
    values = [100 / 3, 200 / 3]
    runs = [*seeds("x,y/a", values), run("b", {"loss": 1e-7}, optim=None)]
    first, second = sorted(records(compare_runs(runs)), key=lambda record: -int(record["n"]))
    assert float(first["top1_mean"]) == math.fsum(values) / 2
    assert float(first["top1_stderr"]) == pytest.approx(
        statistics.stdev(values) / 2**0.5, rel=1e-14
    )
    assert first["runs"] == "x,y/a-0;x,y/a-1"
    assert (first["loss_mean"], first["loss_n"]) == ("", "0")
    assert (second["optim"], float(second["loss_mean"]), second["top1_mean"]) == ("", 1e-7, "")


def test_it_needs_no_torch():
    program = (
        "import sys\n"
        "import sslortho.runs.several.comparison_tables\n"
        "import sslortho.recipes.run_options\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
