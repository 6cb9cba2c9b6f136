import contextlib
import errno
import fcntl
import json
import signal
import subprocess
import sys

import pytest

from sslortho.runs import status
from sslortho.runs.lock import hold_folder, is_held
from sslortho.runs.status import RunStoppedError, Status, read_status, status_of, write_status


def test_the_state_follows_the_block(tmp_path):
    with (tmp_path / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with status_of(tmp_path, writes=True):
            assert read_status(tmp_path) == Status("running", None)
    assert read_status(tmp_path) == Status("finished", None)


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (RunStoppedError(signal.SIGTERM, 7), "stopped",
         "stopped by SIGTERM at step 7; the same command resumes"),
        (ValueError("no\n memory"), "failed", "no memory"),
        (RuntimeError(), "failed", "RuntimeError"),
        (KeyboardInterrupt(), "failed", "interrupted"),
    ],
)  # fmt: skip
def test_an_error_says_how_it_ended(tmp_path, error, state, message):
    with pytest.raises(type(error)), status_of(tmp_path, writes=True):
        raise error
    assert read_status(tmp_path) == Status(state, message, type(error).__name__)


@pytest.mark.parametrize("error", [None, RunStoppedError(signal.SIGINT, 7)])
def test_the_folder_is_free_for_others_afterwards(tmp_path, error):
    hold_folder(tmp_path)
    with contextlib.suppress(RunStoppedError), status_of(tmp_path, writes=True):
        assert is_held(tmp_path / ".lock")
        if error:
            raise error
    assert not is_held(tmp_path / ".lock")
    hold_folder(tmp_path)
    assert is_held(tmp_path / ".lock")


def test_a_run_whose_process_is_gone_was_killed(tmp_path):
    write_status(tmp_path, "running")
    assert read_status(tmp_path) == Status("killed", None)


@pytest.fixture
def without_locks(monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("without_locks")
def test_without_locks_the_process_of_this_machine_is_looked_for(tmp_path):
    write_status(tmp_path, "running")
    (tmp_path / ".lock").touch()
    assert read_status(tmp_path) == Status("running", None)
    content = json.loads((tmp_path / "status.json").read_text())
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    for values, state in [
        ({"pid": ended.pid}, "killed"),
        ({"pid": 10**30}, "killed"),
        ({"pid": ended.pid, "host": "elsewhere"}, "running"),
        ({"pid": None}, "running"),
    ]:
        (tmp_path / "status.json").write_text(json.dumps({**content, **values}))
        assert read_status(tmp_path) == Status(state, None)


def test_only_the_main_process_writes(tmp_path):
    with status_of(tmp_path, writes=False):
        pass
    assert read_status(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"state": "running"}'])
def test_a_broken_file_says_nothing(tmp_path, text):
    (tmp_path / "status.json").write_text(text)
    assert read_status(tmp_path) is None


def test_the_file_names_the_process(tmp_path):
    write_status(tmp_path, "failed", "no memory")
    content = json.loads((tmp_path / "status.json").read_text())
    assert content.keys() == {"state", "message", "error", "pid", "host", "time"}


def test_a_run_with_a_summary_is_finished_whatever_was_written_last(tmp_path):
    write_status(tmp_path, "running")
    (tmp_path / "summary.json").write_text("{}")
    assert read_status(tmp_path) == Status("finished", None)


@pytest.mark.parametrize("state", ["running", "finished"])
def test_a_status_that_cannot_be_written_leaves_the_folder_free(state, tmp_path, monkeypatch):
    """In a notebook the process lives on, and the same call is to work once the disk has room."""
    written = status.write_status

    def refuse(folder, wanted, *details):
        if wanted == state:
            raise OSError(errno.ENOSPC, "full")
        written(folder, wanted, *details)

    monkeypatch.setattr(status, "write_status", refuse)
    hold_folder(tmp_path)
    with pytest.raises(OSError, match="full"), status_of(tmp_path, writes=True):
        pass
    hold_folder(tmp_path)
