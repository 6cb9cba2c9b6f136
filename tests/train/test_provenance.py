import subprocess
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from sslortho.train import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with a package of our name in it; where its module would lie."""
    package = tmp_path / "sslortho" / "train"
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
    (
        folder / "sslortho" / "version.py"
    ).unlink()  # an environment within somebody else's repository
    assert provenance.git_commit() is None
    monkeypatch.setenv("PATH", "")
    assert provenance.git_commit() is None


def test_a_summary_can_tell_how_it_came_about(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["scripts/pretrain.py", "--out", "a folder"])
    monkeypatch.chdir(tmp_path)
    told = provenance.provenance(Accelerator(cpu=True), 0.0)
    assert told["command"] == "python scripts/pretrain.py --out 'a folder'"
    assert Path(told["directory"]) == tmp_path
    assert told["versions"]["torch"] == torch.__version__.split("+")[0]
    assert {"python", "sslortho", "numpy", "numba", "pillow"} <= told["versions"].keys()
    assert told["settings"]["ranks"] == 1
    assert told["settings"]["threads"] == torch.get_num_threads()
    assert told["settings"]["deterministic"] is False
