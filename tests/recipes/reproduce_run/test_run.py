import json
import shutil
import sys

import pytest
from helpers.script_runs import call_command, call_script, finish, records, start_script
from safetensors.torch import load_file, save_file

from sslortho.recipes.reproduce_run import run as rerun

TINY = [
    "--backbone", "basic_cnn", "--projector", "32-32", "--subset", "200", "--batch_size", "100",
    "--epochs", "2", "--warmup_epochs", "1", "--evaluate_every", "0", "--linear_probe", "false",
    "--trackers", "none", "--optim", "orth_lars", "--log_every", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "x"
    options = [*TINY, "--threads", "1", "--out", str(out)]
    finish(start_script("pretrain.py", *options))
    return out


@pytest.fixture
def call():
    """The script in this process: exit code, what it printed, and its errors."""

    def call(*arguments):
        done = call_script("reproduce_run", *arguments)
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.fixture
def copied(run, monkeypatch):
    """In place of every rerun a copy of the run; a list of what would have been started."""
    started = []

    class Copying:
        def __init__(self, command, **options):
            started.append((command, options))
            shutil.copytree(run, command[-1], dirs_exist_ok=True)

        def wait(self):
            return 0

    monkeypatch.setattr(rerun, "Popen", Copying)
    return started


@pytest.mark.slow
def test_a_run_is_reproduced_bit_by_bit(run, call):
    again = run.with_name("x-reproduced")
    code, told, errors = call(run)
    assert code == 0, errors
    assert told.count(" equal") == 3
    result = json.loads((again / "reproduction.json").read_text())
    assert result["reproduced"] is True
    assert [c["what"] for c in result["compared"]] == [
        "backbone.safetensors", "metrics.jsonl", "summary.json"
    ]  # fmt: skip
    assert all(c["equal"] and c["numbers"] for c in result["compared"])
    assert (again / "summary.json").stat().st_mtime > (run / "summary.json").stat().st_mtime
    assert [r["loss"] for r in records(again)] == [r["loss"] for r in records(run)]
    assert len(records(run)) >= 4


@pytest.fixture
def damaged(run, tmp_path):
    """The run with one weight moved by a hundredth of the largest."""
    folder = tmp_path / "x"
    shutil.copytree(run, folder)
    weights = load_file(folder / "backbone.safetensors")
    name = next(name for name, value in weights.items() if value.is_floating_point())
    weights[name].view(-1)[0] += weights[name].abs().max() / 100
    save_file(weights, folder / "backbone.safetensors")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("tolerance", "expected"), [("0", 1), ("1e-3", 1), ("0.02", 0)])
def test_a_weight_that_differs_is_found_unless_it_is_within_the_tolerance(
    damaged, copied, call, tolerance, expected
):
    code, told, _ = call(damaged, "--tolerance", tolerance)
    assert code == expected
    assert len(copied) == 1
    result = json.loads((damaged.with_name("x-reproduced") / "reproduction.json").read_text())
    assert result["reproduced"] is not bool(expected)
    weights = result["compared"][0]
    assert weights["different"] == 1
    assert weights["largest"] == pytest.approx(0.01, rel=1e-3)
    assert "0.01" in told


@pytest.mark.slow
def test_what_changed_since_is_told_before_the_start(run, copied, call, tmp_path):
    folder = tmp_path / "x"
    shutil.copytree(run, folder)
    summary = json.loads((folder / "summary.json").read_text())
    summary["versions"]["torch"], summary["settings"]["cores"] = "1.0", 1000
    (folder / "summary.json").write_text(json.dumps(summary))
    code, told, _ = call(folder)
    lines = told.splitlines()
    start = next(i for i, line in enumerate(lines) if "sslortho pretrain --config" in line)
    assert code == 0
    assert any(line.startswith("versions.torch: 1.0 then, ") for line in lines[:start])
    assert any(line.startswith("settings.cores: 1000 then, ") for line in lines[:start])
    (_, options) = copied[0]
    assert options["env"]["CUDA_VISIBLE_DEVICES"] == ""
    assert str(options["cwd"]) == summary["directory"]


@pytest.mark.slow
def test_a_mistake_is_one_line_and_starts_nothing(run, copied, call, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("seed: 0", "seed: 1"))
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished)
    (unfinished / "summary.json").unlink()
    for arguments, expected in (
        ((tmp_path / "nothing",), "is not a folder"),
        ((unfinished,), "is not finished; resume it"),
        ((run, "--out", other), "holds a run with other options: seed (1 there, 0 here)"),
        ((run, "--out", run), "is the run itself"),
        ((run, "--tolerance", "-1"), "tolerance=-1.0 must be 0 or more"),
        ((run, "--tolerence", "1"), "did you mean tolerance?"),
        (("--out", other), "the folder of a run comes first"),
    ):
        code, _, errors = call(*arguments)
        assert code == 2
        assert errors.startswith("reproduce_run.py: error: ")
        assert expected in errors
        assert errors.count("\n") == 1
    assert not copied


@pytest.mark.slow
def test_a_rerun_that_comes_to_nothing_is_an_error(run, monkeypatch, call, tmp_path):
    class Failing:
        def __init__(self, *command, **options):
            pass

        def wait(self):
            return 3

    monkeypatch.setattr(rerun, "Popen", Failing)
    code, _, errors = call(run, "--out", tmp_path / "y")
    assert code == 2
    assert "ended with exit code 3 and is not finished" in errors


@pytest.mark.slow
def test_a_rerun_that_says_itself_what_is_wrong_is_not_talked_over(
    run, monkeypatch, call, tmp_path
):
    """For example that the weights are gone."""
    command = [sys.executable, "-c", "import sys; sys.exit(2)"]
    monkeypatch.setattr(rerun, "build_command_line", lambda *arguments: command)
    assert call(run, "--out", tmp_path / "y")[::2] == (2, "")


@pytest.mark.slow
def test_the_help_is_there(call):
    for arguments in (("--help",), (), ("runs/x", "--help")):
        code, told, _ = call(*arguments)
        assert code == 0
        assert told.startswith("usage: reproduce_run.py RUN ")
        assert "--tolerance" in told
    told = call_command("reproduce_run", "--help").stdout
    assert told.startswith("usage: sslortho reproduce_run RUN ")
