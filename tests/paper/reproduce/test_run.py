import fcntl
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.script_runs import call_command, call_script

from sslortho.paper import experiments
from sslortho.paper.reproduce import run as reproduce
from sslortho.recipes.command_line import parse_options
from sslortho.recipes.run_options import RUN_OPTIONS
from sslortho.runs.several import job_runner, jobs


@pytest.fixture
def call(tmp_path, monkeypatch):
    """The command on its arguments: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def call(*arguments):
        done = call_command("reproduce", *arguments)
        return done.returncode, done.stdout, done.stderr

    return call


def commands(out):
    """Options of every command that a dry run prints, as text."""
    found = []
    for line in out.splitlines():
        program, _, *arguments = shlex.split(line)
        assert program == "sslortho"
        names = [name.removeprefix("--") for name in arguments[::2]]
        found.append(dict(zip(names, arguments[1::2], strict=True)))
    return found


@pytest.mark.parametrize(("arguments", "expected"), [((), 2), (("--help",), 0)])
def test_without_a_name_the_experiments_are_listed(call, arguments, expected):
    code, out, _ = call(*arguments)
    assert code == expected
    assert [line.split()[0] for line in out.splitlines()[2:]] == [
        "table1", "table2", "table3", "table4", "table5", "figure1", "figure7", "figure8",
        "figure9", "figure10", "attention", "cifar10_resnet18", "imagenet", "new_methods", "order",
        "order_polar", "order_supervised",
    ]  # fmt: skip
    assert "Table 3: ten models with SGDM and Orthogonal-SGDM" in out


def test_the_script_is_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call_script("reproduce", "tabel3")
    assert done.returncode == 2
    assert done.stderr.startswith("reproduce.py: error: 'tabel3' is not an experiment")
    assert call_script("reproduce").stdout.startswith("usage: reproduce.py EXPERIMENT [options]")


def test_an_experiments_help_has_the_options(call):
    code, out, _ = call("table3", "--help")
    assert code == 0
    assert "--only" in out
    assert out.startswith("usage: sslortho reproduce table3 ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tabel3"], "'tabel3' is not an experiment (did you mean table3?)"),
        (["--epochs", "1", "table3"], "the name of an experiment comes first"),
        (["table3", "--epoch", "1"], "did you mean epochs?"),
        (["table3", "--only", "basic_cn"], "did you mean basic_cnn?"),
        (["table3", "--only", ","], "only=',' must be keys"),
        (["table3"], "data='cifar10' needs data_dir"),
        (["table3", "--data_dir", "gone"], "data_dir='gone' is not a folder"),
        (["table3", "--epochs", "0"], "epochs=0 must be 1 or more"),
        (["table3", "--report", "--dry_run"], "has no effect"),
        (["table3", "--dry_run", "--mixed_precision", "auto"], "mixed_precision='auto' must be"),
        (["table3", "--dry_run", "--mixed_precision", "fp8"], "mixed_precision"),
    ],
)
def test_a_mistake_is_one_line(call, tmp_path, arguments, message):
    code, _, error = call(*arguments)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_prints_the_papers_commands_and_writes_nothing(call, tmp_path):
    code, out, error = call("table3", "--dry_run")
    assert (code, error) == (0, "")
    found = commands(out)
    assert len(found) == 100  # ten models, two optimizers, five seeds
    assert [options["seed"] for options in found] == [s for s in "01234" for _ in range(20)]
    assert {(o["data"], o["data_dir"], o["batch_size"], o["epochs"], o["lr"]) for o in found} == {
        ("cifar10", "DATA_DIR", "1024", "100", "0.01")
    }
    assert len({options["out"] for options in found}) == 100
    assert found[0]["out"] == "runs/table3/runs/basic_cnn-sgd-s0"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", experiments.find_experiments().values(), ids=lambda path: path.stem
)
def test_every_experiments_commands_on_the_digits_are_accepted(call, path):
    code, out, _ = call(path.stem, "--dry_run", "--data", "digits", "--epochs", "3", "--seeds", "1")
    assert code == 0
    for line in out.splitlines():
        _, command, *arguments = shlex.split(line)
        parse_options(RUN_OPTIONS[command], arguments)
    for options in commands(out):
        assert (options["data"], options["epochs"]) == ("digits", "3")
        assert options.get("views", "auto") == "auto"
        assert int(options.get("crop_size", "32")) <= 32
        assert 8 * int(options["batch_size"]) <= 1437


def test_options_of_the_command_line_come_into_the_commands(call):
    _, out, _ = call(
        "table1", "--dry_run", "--only", "he,orth_sgd", "--seeds", "2", "--epochs", "20",
        "--data_dir", "D", "--out", "o", "--subset", "20000", "--threads", "3",
    )  # fmt: skip
    found = commands(out)
    assert [options["out"] for options in found] == [f"o/runs/he-orth_sgd-s{s}" for s in (0, 1)]
    for options in found:
        assert json.loads(options["milestones"]) == pytest.approx([10, 15])
        assert (options["epochs"], options["subset"], options["threads"]) == ("20", "20000", "3")
        assert (options["data_dir"], options["batch_size"]) == ("D", "128")


def test_a_report_needs_no_runs_and_no_data(call):
    code, out, error = call("table5", "--report")
    assert (code, error) == (0, "")
    assert out.strip() == "runs/table5/report.md"
    assert "76.67 ± 0.10" in Path("runs/table5/report.md").read_text()


@pytest.mark.slow
def test_a_small_run_from_beginning_to_end(call):
    arguments = ("table3", "--data", "digits", "--only", "basic_cnn,orth_sgd", "--epochs", "1",
                 "--seeds", "1", "--subset", "256", "--threads", "1")  # fmt: skip
    code, out, error = call(*arguments)
    assert (code, error) == (0, ""), out
    assert "batch_size 16" in out
    summary = Path("runs/table3/runs/basic_cnn-orth_sgd-s0/summary.json")
    before = summary.stat().st_mtime_ns
    report = Path("runs/table3/report.md").read_text()
    assert "76.67 ± 0.10" in report
    assert "batch_size: 16 instead of 1024" in report

    code, out, _ = call(*arguments)
    assert code == 0
    assert "1 finished already" in out
    assert "started" not in out
    assert summary.stat().st_mtime_ns == before
    assert call(*arguments, "--dry_run")[1] == "every run is finished\n"

    code, out, error = call(*arguments, "--threads", "2", "--data_dir", "gone")
    assert (code, error.count("\n")) == (0, 1), error
    assert "data_dir='gone' has no effect on digits" in error

    subset = arguments.index("--subset")
    code, _, error = call(*arguments[:subset], *arguments[subset + 2 :])
    assert code == 2
    assert "holds a run with subset=256, but subset=None is asked for" in error

    code, _, error = call(*arguments, "--epochs", "2")
    assert code == 2
    assert "basic_cnn-orth_sgd-s0 holds a run with epochs=1, but epochs=2 is asked for" in error


SMALL = {"backbone": "basic_cnn", "projector": "32-32"}


@pytest.mark.slow
def test_a_small_pretraining_from_beginning_to_end(call, monkeypatch):
    read = reproduce.read_experiment

    def read_small(path):
        paper = read(path)
        cells = [replace(c, options={**c.options, **SMALL}) for c in paper.cells]
        return replace(paper, cells=tuple(cells))

    monkeypatch.setattr(reproduce, "read_experiment", read_small)
    code, out, error = call("figure7", "--data", "digits", "--only", "orth_lars", "--epochs", "1",
                            "--subset", "64", "--threads", "1")  # fmt: skip
    assert (code, error) == (0, ""), out
    summary = json.loads(Path("runs/figure7/runs/resnet50-orth_lars-s0/summary.json").read_text())
    config = summary["config"]
    assert (config["method"], config["crop_size"], config["epochs"]) == ("barlow_twins", 32, 1)
    report = Path("runs/figure7/report.md").read_text()
    assert f"{summary['knn_top1']:.2f}" in report
    assert Path("runs/figure7/figure7.png").stat().st_size > 1000


FAKE = """
import json, sys
from pathlib import Path
def parse(text):
    try:
        return json.loads(text)
    except ValueError:
        return text
given = {a[2:]: parse(v) for a, v in zip(sys.argv[2::2], sys.argv[3::2])}
out = Path(given["out"])
out.mkdir(parents=True)
(out / "config.yaml").write_text(json.dumps(given))
(out / "summary.json").write_text("{}")
"""


@pytest.fixture
def fake(call, tmp_path, monkeypatch):
    """The call, its runs a program that finishes at once and keeps what it was given."""
    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.setattr(jobs, "PROGRAM", (str(tmp_path / "fake.py"),))
    monkeypatch.setattr(job_runner, "POLL", 0.01)
    monkeypatch.setattr(job_runner, "LOCK_WAIT", 0.0)
    return call


ONE = ("figure1", "--only", "orth_sgd", "--seeds", "1")


def test_a_finished_run_of_a_subset_is_no_run_of_all_images(fake, tmp_path):
    (tmp_path / "D").mkdir()
    code, out, error = fake(*ONE, "--data_dir", "D", "--subset", "10000")
    assert (code, error) == (0, ""), out
    code, _, error = fake(*ONE, "--data_dir", "D")
    assert code == 2
    assert "holds a run with subset=10000, but subset=None is asked for" in error
    assert error.count("\n") == 1


def test_a_finished_run_outlives_its_data(fake, tmp_path):
    (tmp_path / "D").mkdir()
    assert fake(*ONE, "--data_dir", "D")[0] == 0
    shutil.move("D", "E")
    for arguments in (("--data_dir", "E"), ("--data_dir", "D"), ("--threads", "1")):
        code, out, error = fake(*ONE, *arguments)
        assert (code, error) == (0, "")
        assert "1 finished already" in out
        assert "started" not in out


def test_more_images_than_there_are_is_all(fake):
    arguments = (*ONE, "--data", "digits", "--subset", "2000")
    code, out, error = fake(*arguments)
    assert (code, error) == (0, ""), out
    remark = "subset: all 1437, 2000 asked for"
    assert remark in out.splitlines()
    config = Path("runs/figure1/runs/resnet20-orth_sgd-s0/config.yaml").read_text()
    assert "subset" not in json.loads(config)
    report = Path("runs/figure1/report.md").read_text()
    assert f"- {remark}" in report
    assert "--subset 2000" in report  # the command that has led here
    assert "1 finished already" in fake(*ONE, "--data", "digits")[1]


def test_a_run_of_another_process_has_not_failed(fake):
    log = Path("runs/figure1/logs/resnet20-orth_sgd-s0.log")
    log.parent.mkdir(parents=True)
    with log.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, out, error = fake(*ONE, "--data", "digits")
    assert code == 1
    assert "left to another process that runs them: resnet20-orth_sgd-s0" in error
    assert "failed" not in out + error


def test_an_option_that_the_command_refuses_is_one_line(call, monkeypatch, tmp_path):
    paper = tmp_path / "paper"
    paper.mkdir()
    (paper / "small.yaml").write_text(
        "title: T\nrows: {a: {label: A}}\ncolumns: {b: {label: B, epochs: 1, batch_size: 4, LINE}}"
    )
    text = (paper / "small.yaml").read_text()
    monkeypatch.setattr(experiments, "configs_folder", lambda: tmp_path)
    for line, message in (("gamma: 0.1", "gamma=0.1 has no effect"), ("gama: 0.1", "'gama'")):
        (paper / "small.yaml").write_text(text.replace("LINE", line))
        code, _, error = call("small", "--data", "digits")
        assert code == 2
        assert "error: a-b-s0: " in error
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_failed_runs_are_told_and_the_exit_code_is_1(call, tmp_path, monkeypatch):
    (tmp_path / "fake.py").write_text("raise SystemExit('no luck')")
    monkeypatch.setattr(jobs, "PROGRAM", (str(tmp_path / "fake.py"),))
    code, out, error = call("figure1", "--data", "digits", "--seeds", "1", "--out", "o")
    assert code == 1
    assert out.count("no luck") == 2
    assert "failed: resnet20-sgd-s0, resnet20-orth_sgd-s0; logs are in o/logs" in error
    assert "failed" in Path("o/report.md").read_text()


def test_a_report_remembers_what_was_asked(fake, tmp_path):
    (tmp_path / "D").mkdir()
    scale = ("--epochs", "3", "--seeds", "1", "--subset", "10000", "--data_dir", "D", "--out", "o")
    assert fake("table3", "--only", "basic_cnn", *scale)[0] == 0
    assert fake("table3", "--only", "resnet20,sgd", *scale)[0] == 0
    assert fake("table3", "--report", "--out", "o")[0] == 0
    report = Path("o/report.md").read_text()
    assert "epochs 3" in report
    assert "subset 10000" in report
    table = report[: report.index("## What differs")]
    assert "BasicCNN" in table
    assert "resnet20" in table
    assert "densenet" not in table


def test_a_folder_is_of_one_experiment(fake, tmp_path):
    (tmp_path / "D").mkdir()
    assert fake(*ONE, "--data_dir", "D", "--out", "o")[0] == 0
    before = Path("o/report.md").read_bytes()
    for more in ((), ("--report",)):
        code, _, error = fake("table4", "--data_dir", "D", "--out", "o", *more)
        assert code == 2
        assert "out='o' holds figure1, not table4" in error
    assert Path("o/report.md").read_bytes() == before


def test_nothing_is_reported_of_a_folder_that_is_not_there(call):
    code, _, error = call("figure1", "--report", "--out", "gone")
    assert code == 2
    assert "out='gone' is not a folder" in error
    assert not Path("gone").exists()


def test_what_another_experiment_writes_is_found_by_its_name_too(call):
    code, out, _ = call("table6", "--dry_run", "--only", "lr0.1_momentum0", "--seeds", "1")
    assert code == 0
    assert out.startswith("table6 is written by table2")
    assert out.count("sslortho supervised") == 4
