import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from sslortho.runs import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with a package of our name in it; where its module would lie."""
    package = tmp_path / "sslortho" / "runs"
    package.mkdir(parents=True)
    (tmp_path / "sslortho" / "version.py").write_text("")
    (tmp_path / "tracked").write_text("one")

    def git(*arguments):
        command = [
            "git",
            "-C",
            str(tmp_path),
            "-c",
            "user.name=x",
            "-c",
            "user.email=x",
            *arguments,
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "first")
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    return tmp_path, git


def test_the_commit_is_gits_and_changes_are_told(checkout):
    folder, git = checkout
    assert provenance.git_commit() == git("rev-parse", "HEAD")
    (folder / "new").write_text("not of the repository")
    assert provenance.git_commit() == git("rev-parse", "HEAD")
    (folder / "tracked").write_text("two")
    assert provenance.git_commit() == git("rev-parse", "HEAD") + "+changes"


def test_without_a_checkout_or_git_there_is_no_commit(checkout, monkeypatch):
    folder, _ = checkout
    in_checkout = provenance.__file__
    installed = folder / ".venv" / "site-packages" / "sslortho" / "runs"
    installed.mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(installed / "provenance.py"))
    assert provenance.git_commit() is None
    monkeypatch.setattr(provenance, "__file__", in_checkout)
    assert provenance.git_commit() is not None
    monkeypatch.setenv("PATH", "")
    assert provenance.git_commit() is None


@pytest.mark.parametrize("slow", ["rev-parse", "status"])
def test_a_git_that_does_not_answer_in_time_is_not_waited_for(checkout, monkeypatch, slow):
    _, git = checkout
    commit, run = git("rev-parse", "HEAD"), subprocess.run

    def stall(command, timeout, **options):
        if slow in command:
            raise subprocess.TimeoutExpired(command, timeout)
        return run(command, timeout=timeout, **options)

    monkeypatch.setattr(provenance.subprocess, "run", stall)
    assert provenance.git_commit() == (f"{commit}+unknown" if slow == "status" else None)


def test_the_launcher_is_told_by_its_variables(monkeypatch):
    for name in provenance.LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    assert provenance.launcher() == "python"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert provenance.launcher() == "torchrun"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # which may use torchrun
    assert provenance.launcher() == "accelerate launch"


def test_a_summary_can_tell_how_it_came_about(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["scripts/pretrain.py", "--out", "a folder"])
    monkeypatch.chdir(tmp_path)
    session = provenance.Session(provenance.command_line())
    told = provenance.provenance(Accelerator(cpu=True), session)
    assert told["command"] == "python scripts/pretrain.py --out 'a folder'"
    assert Path(told["directory"]) == tmp_path
    assert told["versions"]["torch"] == torch.__version__.split("+")[0]
    assert {"python", "sslortho", "numpy", "numba", "pillow"} <= told["versions"].keys()
    assert told["settings"]["ranks"] == 1
    assert told["settings"]["threads"] == torch.get_num_threads()
    assert told["settings"]["deterministic"] is False
    assert told["settings"]["float32_matmul_precision"] == torch.get_float32_matmul_precision()
    assert told["settings"]["device"] == "cpu"
    assert 1 <= told["settings"]["cores"] <= (os.cpu_count() or 1)
    assert json.loads(json.dumps(told)) == told


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["/env/bin/sslortho", "pretrain", "--out", "a b"], "sslortho pretrain --out 'a b'"),
        (["/env/sslortho/__main__.py", "tune"], "python -m sslortho tune"),
        (["scripts/tune.py", "--lr", "1"], "python scripts/tune.py --lr 1"),
    ],
)
def test_the_command_is_told_as_it_would_be_typed(monkeypatch, arguments, command):
    monkeypatch.setattr("sys.argv", arguments)
    assert provenance.command_line() == command


def test_only_the_main_process_asks_git(monkeypatch):
    def refuse(*arguments):
        raise AssertionError(arguments)

    accelerator = SimpleNamespace(
        is_main_process=False, num_processes=4, device=torch.device("cpu"), mixed_precision="bf16"
    )
    monkeypatch.setattr(provenance, "_git", refuse)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    told = provenance.provenance(accelerator, provenance.Session("sslortho pretrain"))
    assert told["git_commit"] is None
    assert (told["settings"]["ranks"], told["settings"]["machines"]) == (4, 2)
    assert told["settings"]["mixed_precision"] == "bf16"
