import csv
import json
from pathlib import Path

import pytest
from helpers.script_runs import call_script

from sslortho.recipes.compare import group_by_kind
from sslortho.recipes.knn_eval.options import KnnEvalOptions
from sslortho.recipes.linear_eval.options import LinearEvalOptions
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.supervised.options import SupervisedOptions
from sslortho.runs.several.identity import Run


@pytest.fixture
def call(tmp_path, monkeypatch):
    """The script on its arguments: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        done = call_script("compare", *arguments)
        return done.returncode, done.stdout, done.stderr

    return call


def write_run(name, figures, **config):
    folder = Path("runs") / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").touch()
    if figures is not None:
        (folder / "summary.json").write_text(json.dumps({**figures, "config": config}))
    return folder


def test_prints_and_writes_both_tables(call):
    for seed, top1 in enumerate((90.0, 92.0)):
        write_run(f"lars-{seed}", {"top1": top1, "loss": 2.0}, optim="lars", seed=seed)
    write_run("adam-0", {"top1": 80.0, "loss": 1.0}, optim="adam", seed=0)
    code, out, error = call(
        *sorted(Path("runs").iterdir()), "--figures", "top1", "--out", "t/compare.md"
    )
    assert (code, error) == (0, "")
    text = Path("t/compare.md").read_text()
    assert text in out
    assert "| lars  |   2 | **91.00** ± 1.00 |" in text
    assert "loss" not in text
    with Path("t/compare.csv").open() as file:
        adam, lars = csv.DictReader(file)
    assert adam == {"optim": "adam", "n": "1", "top1_mean": "80.0", "top1_stderr": "", "top1_n": "1",
                    "runs": "runs/adam-0"}  # fmt: skip
    assert lars["runs"] == "runs/lars-0;runs/lars-1"
    assert sorted(path.name for path in Path("t").iterdir()) == ["compare.csv", "compare.md"]


def test_what_is_unfinished_or_no_folder_is_named_once_and_left_out(call):
    write_run("a", {"top1": 1.0}, seed=0)
    write_run("b", None)
    write_run("c", None)
    Path("runs/slurm.log").touch()
    code, out, error = call(*sorted(Path("runs").iterdir()))
    assert code == 0
    assert error.splitlines() == [
        "left out, unfinished: runs/b, runs/c",
        "left out, no runs: runs/slurm.log",
    ]
    assert "| a " in out
    assert Path("compare.md").is_file()


def test_a_folder_of_runs_is_left_out_and_one_that_is_not_there_an_error(call):
    write_run("a", {"top1": 1.0})
    Path("runs/grid").mkdir()
    code, out, error = call("runs/a", "runs/grid")
    assert code == 0
    assert "1.00" in out
    assert error.splitlines() == ["left out, no runs: runs/grid"]
    Path("compare.md").unlink()
    code, out, error = call("runs/a", "nowhere")
    assert (code, out) == (2, "")
    assert error.splitlines() == ["compare.py: error: nowhere does not exist"]
    assert not Path("compare.md").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"top1": 1.0}', '{"config": 3}'])
def test_a_broken_summary_is_an_error(call, text):
    (write_run("a", None) / "summary.json").write_text(text)
    code, _, error = call("runs/a")
    assert code == 2
    assert "summary.json is broken" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--figures", "top1,lost"], "figures='lost'"), (["--by", "optim"], "by='optim'")],
)
def test_a_name_that_is_not_there_is_an_error(call, arguments, message):
    write_run("a", {"top1": 1.0, "loss": 1.0}, seed=0)
    code, _, error = call("runs/a", *arguments)
    assert code == 2
    assert message in error


def test_nothing_finished_is_an_error(call):
    code, _, error = call(write_run("a", None))
    assert code == 2
    assert "no finished run" in error


def test_seeds_that_differ_in_where_they_ran_are_one_row(call):
    for seed, options in enumerate(({}, {"rank_timeout": 60.0}, {"evaluate_every": 5})):
        write_run(f"a-{seed}", {"top1": 1.0}, lr=1.0, seed=seed, **options)
    code, out, _ = call(*sorted(Path("runs").iterdir()))
    assert code == 0
    assert r"| a-\* |   3 |" in out


def test_a_run_given_twice_counts_once(call):
    folder = write_run("a", {"top1": 1.0}, seed=0)
    code, out, _ = call(folder, f"{folder}/", folder.resolve())
    assert code == 0
    assert "|   1 |" in out


def test_by_groups_by_these_options(call):
    for seed, lr in enumerate((1, 2, 3)):
        write_run(f"a{seed}", {"top1": 1.0}, optim="lars", lr=lr, seed=seed)
    _, out, _ = call(*sorted(Path("runs").iterdir()), "--by", "optim, seed")
    assert out.count("| lars ") == 3
    _, out, _ = call(*sorted(Path("runs").iterdir()), "--by", "optim")
    assert "| lars  |   3 |" in out
    assert "differ in lr" in out


def test_backbones_are_looked_up_where_their_runs_are(call):
    for name, lr, seed in (("grid-2", 2, 0), ("grid-20", 20, 0), ("other", 2, 1)):
        write_run(name, {"loss": 1.0}, lr=lr, seed=seed)
    sources = ["runs/grid-2", "runs/grid-20/backbone.safetensors", "runs/other"]
    evaluations = [
        write_run(f"e{i}", {"top1": float(i)}, backbone_from=source, seed=0)
        for i, source in enumerate(sources)
    ]
    code, out, _ = call(*evaluations)
    assert code == 0
    rows = [line for line in out.splitlines() if line.startswith("| e")]
    assert [line.split("|")[3].strip() for line in rows] == ["2", "1"]  # e0 with e2
    assert "taken for a seed" not in out


def test_each_kind_of_run_has_its_own_table_and_its_own_best(call):
    write_run("p0", {"loss": 396.0, "knn_top1": 40.0}, method="barlow_twins", lr=1)
    write_run("p1", {"loss": 500.0, "knn_top1": 30.0}, method="barlow_twins", lr=2)
    write_run("s", {"loss": 1.4, "top1": 60.0}, head_classes=None)
    write_run("k", {"knn_top1": 41.0}, preset=None, backbone_from="runs/p0", seed=0)
    folders = sorted(Path("runs").iterdir())
    code, out, error = call(*folders, "--out", "c")
    assert (code, error) == (0, "")
    text = Path("c.md").read_text()
    assert text in out
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [
        "## Pretraining, barlow_twins",
        "## Supervised training",
        "## Nearest neighbours",
    ]
    pretraining, supervised, neighbours = (part.split("\n## ")[0] for part in text.split("## ")[1:])
    assert "**396.0**" in pretraining  # though cross-entropy is lower
    assert "top1 " not in pretraining.replace("knn_top1", "")
    assert "396" not in supervised
    assert "| runs/p0 " in neighbours  # which backbone was evaluated
    with Path("c.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    _, out, _ = call(*folders, "--figures", "loss")
    assert "loss" not in out.split("## Nearest neighbours")[1]


def test_the_kinds_are_told_by_options_that_one_command_alone_has():
    commands = {
        "Pretraining, barlow_twins": PretrainOptions.of(),
        "Supervised training": SupervisedOptions(),
        "Linear evaluation": LinearEvalOptions(backbone_from="x"),
        "Nearest neighbours": KnnEvalOptions(backbone_from="x"),
    }
    for kind, options in commands.items():
        assert list(group_by_kind([Run("r", {"config": options.values()})])) == [kind]


def cells(text, title=""):
    """Rows of the table below a heading, the header first."""
    part = text.split(f"## {title}\n")[1].split("\n## ")[0] if title else text
    lines = [line for line in part.splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_each_method_has_its_own_table_and_every_row_its_run(call):
    for name, method, loss in (("a", "simclr", 5.0), ("b", "vicreg", 20.0), ("c", "simclr", 4.0)):
        write_run(name, {"loss": loss, "knn_top1": loss}, method=method, lr=loss, seed=0)
    code, out, _ = call(*sorted(Path("runs").iterdir()))
    assert code == 0
    assert cells(out, "Pretraining, simclr") == [
        ["run", "lr", "n", "knn_top1", "loss"],
        ["c", "4", "1", "4.00", "**4.000**"],
        ["a", "5", "1", "**5.00**", "5.000"],
    ]
    assert cells(out, "Pretraining, vicreg")[1:] == [["b", "1", "20.00", "20.00"]]


@pytest.mark.parametrize(
    ("option", "values", "bold"),
    [
        ("lr", (1.0, 2.0), {"loss", "knn_top1"}),
        ("temperature", (0.1, 0.5), {"knn_top1"}),
        ("projector", ("64-64", "128-128"), {"knn_top1"}),
        ("batch_size", (64, 128), {"knn_top1"}),
        ("data", ("digits", "cifar10"), set()),
    ],
)
def test_no_loss_is_best_among_other_losses_and_nothing_among_other_images(
    call, option, values, bold
):
    for i, value in enumerate(values):
        figures = {"loss": 2.0 + i, "knn_top1": 50.0 + i}
        write_run(f"r{i}", figures, method="simclr", seed=0, **{option: value})
    _, out, _ = call(*sorted(Path("runs").iterdir()), "--figures", "loss,knn_top1")
    header, *rows = cells(out)
    found = {name for row in rows for name, cell in zip(header, row, strict=True) if "**" in cell}
    assert found == bold


def test_what_all_rows_agree_in_is_named_once(call):
    for i, lr in enumerate((1.0, 2.0)):
        figures = {
            "knn_top1": 50.0,
            "untrained_knn_top1": 31.0,
            "parameters": 272474,
            "rankme": 3.0 + i,
        }
        write_run(f"r{i}", figures, method="simclr", lr=lr, seed=0)
    folders = sorted(Path("runs").iterdir())
    _, out, _ = call(*folders)
    assert cells(out)[0] == ["run", "lr", "n", "knn_top1", "rankme"]
    assert "The same in all rows: parameters 272474, untrained_knn_top1 31." in out
    with Path("compare.csv").open() as file:
        assert next(csv.DictReader(file))["parameters_mean"] == "272474.0"
    _, out, _ = call(*folders, "--figures", "parameters")
    assert cells(out)[0] == ["run", "lr", "n", "parameters"]
    _, out, _ = call(folders[0])
    assert "parameters" in cells(out)[0]
