import json
import shlex
import sys
from pathlib import Path

import pytest

from sslortho.config import PretrainConfig, SupervisedConfig, parse_config

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"
sys.path.append(str(SCRIPTS))

import reproduce  # noqa: E402

PARSED = {"scripts/supervised.py": SupervisedConfig, "scripts/pretrain.py": PretrainConfig}


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """The script on its arguments: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["reproduce.py", *arguments])
        with pytest.raises(SystemExit) as left:
            reproduce.main()
        return left.value.code, *capsys.readouterr()

    return call


def commands(out):
    """Options of every command that a dry run prints, as text; the first and the last are checked."""
    found = []
    lines = out.splitlines()
    for i, line in enumerate(lines):
        python, script, *arguments = shlex.split(line)
        assert python == "python"
        if i in (0, len(lines) - 1):
            parse_config(PARSED[script], arguments)
        names = [name.removeprefix("--") for name in arguments[::2]]
        found.append(dict(zip(names, arguments[1::2], strict=True)))
    return found


@pytest.mark.parametrize(("arguments", "expected"), [((), 2), (("--help",), 0)])
def test_without_a_name_the_experiments_are_listed(call, arguments, expected):
    code, out, _ = call(*arguments)
    assert code == expected
    assert [line.split()[0] for line in out.splitlines()[2:]] == [
        "table1", "table2", "table3", "table4", "table5", "figure1", "figure7", "figure8",
        "figure9", "figure10", "attention", "imagenet",
    ]  # fmt: skip
    assert "Table 3: ten models with SGDM and Orthogonal-SGDM" in out


def test_an_experiments_help_has_the_options(call):
    code, out, _ = call("table3", "--help")
    assert code == 0
    assert "--only" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tabel3"], "'tabel3' is no experiment (did you mean table3?)"),
        (["--epochs", "1", "table3"], "the name of an experiment comes first"),
        (["table3", "--epoch", "1"], "did you mean epochs?"),
        (["table3", "--only", "basic_cn"], "did you mean basic_cnn?"),
        (["table3", "--only", ","], "only=',' must be keys"),
        (["table3"], "data='cifar10' needs data_dir"),
        (["table3", "--data", "digits", "--data_dir", "D"], "has no effect on data='digits'"),
        (["table3", "--epochs", "0"], "epochs=0 must be 1 or more"),
        (["table3", "--report", "--dry_run"], "has no effect"),
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


@pytest.mark.parametrize("path", reproduce.find_experiments().values(), ids=lambda path: path.stem)
def test_every_experiment_runs_on_the_digits(call, path):
    code, out, _ = call(path.stem, "--dry_run", "--data", "digits", "--epochs", "3", "--seeds", "1")
    assert code == 0
    for options in commands(out):
        assert (options["data"], options["epochs"]) == ("digits", "3")
        assert options.get("views", "auto") == "auto"
        assert options.get("crop_size", "32") == "32"
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
    assert call(*arguments, "--dry_run")[1] == ""

    code, _, error = call(*arguments, "--epochs", "2")
    assert code == 2
    assert "basic_cnn-orth_sgd-s0 holds a run with epochs=1, but epochs=2 is asked for" in error


def test_failed_runs_are_told_and_the_exit_code_is_1(call, tmp_path, monkeypatch):
    (tmp_path / "supervised.py").write_text("raise SystemExit('no luck')")
    monkeypatch.setattr(reproduce, "SCRIPTS", tmp_path)
    code, out, error = call("figure1", "--data", "digits", "--seeds", "1", "--out", "o")
    assert code == 1
    assert out.count("no luck") == 2
    assert "failed: resnet20-sgd-s0, resnet20-orth_sgd-s0; logs are in o/logs" in error
    assert "failed" in Path("o/report.md").read_text()
