import errno
import fcntl
import os
import runpy
import subprocess
import sys

import pytest

from sslortho.runs import lock
from sslortho.runs.lock import hold_folder, is_held, release_folder


def test_a_folder_is_held_until_the_process_ends(tmp_path):
    folder = tmp_path / "new"
    program = f"""
import pathlib
from sslortho.runs.lock import hold_folder
folder = pathlib.Path({str(folder)!r})
hold_folder(folder)
try:
    hold_folder(folder)  # by another run of the same process
except ValueError:
    pass
else:
    raise SystemExit("held twice")
print("held", flush=True)
input()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program], **pipes) as other:
        assert other.stdout.readline() == "held\n"
        assert is_held(folder / ".lock")
        with pytest.raises(ValueError, match="another process is at work there"):
            hold_folder(folder)
        other.communicate("\n", timeout=60)
    assert not is_held(folder / ".lock")
    hold_folder(folder)


def test_a_folder_that_cannot_be_made_is_a_users_mistake(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        ValueError, match=r"out='.*/file/run' cannot be written to \(Not a directory\)"
    ):
        hold_folder(tmp_path / "file" / "run")


def test_a_file_is_held_while_it_is_locked(tmp_path):
    assert not is_held(tmp_path / "absent")
    with (tmp_path / "log").open("wb") as log:
        assert not is_held(tmp_path / "log")
        fcntl.flock(log, fcntl.LOCK_EX)
        assert is_held(tmp_path / "log")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_and_not_guessed_at(tmp_path, monkeypatch, number):
    def refuse(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="has no locks: nothing prevents a second process"):
        hold_folder(tmp_path)
    assert is_held(tmp_path / ".lock") is None
    assert is_held(tmp_path / "absent") is False
    with pytest.raises(ValueError, match="another process is at work there"):
        hold_folder(tmp_path)  # by this process, which knows it
    release_folder(tmp_path)


def test_a_system_without_these_locks_is_told_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(ImportError, match="on Windows use WSL"):
        runpy.run_path(lock.__file__)
