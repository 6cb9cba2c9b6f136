import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sslortho.train.checkpoint import CheckpointFolder


def steps(folder):
    return [int(path.name.split("-")[1]) for path in folder.list()]


def test_the_newest_checkpoints_are_kept(tmp_path):
    folder = CheckpointFolder(tmp_path / "checkpoints", keep_last=2)
    for step in (3, 20, 100, 1000):
        folder.save({"value": step}, step)
    assert steps(folder) == [100, 1000]
    assert folder.load_latest()["value"] == 1000


def test_one_is_enough(tmp_path):
    folder = CheckpointFolder(tmp_path / "checkpoints", keep_last=1)
    for step in (3, 20):
        folder.save({"value": step}, step)
    assert steps(folder) == [20]


def test_a_name_holds_the_beginning_of_the_sha256(tmp_path):
    path = CheckpointFolder(tmp_path).save({"weights": torch.randn(100_000)}, 42)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f"step-00000042-{digest[:16]}.pt"
    assert torch.load(path, weights_only=True)["weights"].shape == (100_000,)


def test_what_a_killed_process_left_is_removed_by_the_next_checkpoint(tmp_path):
    left = tmp_path / ".step-00000007.pt.4711.partial"
    left.write_bytes(b"half")
    folder = CheckpointFolder(tmp_path)
    assert folder.load_latest() is None
    path = folder.save({"value": 1}, 8)
    assert list(tmp_path.iterdir()) == [path]


def test_no_checkpoint_is_none(tmp_path):
    assert CheckpointFolder(tmp_path / "nothing").load_latest() is None


def cut(content):
    return content[: len(content) // 2]


def flip(content):
    """One bit in the middle, where a tensor lies: torch reads it without complaint."""
    damaged = bytearray(content)
    damaged[len(damaged) // 2] ^= 1
    return bytes(damaged)


@pytest.mark.parametrize("damage", [cut, flip, lambda content: b"", lambda content: content[:-1]])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, damage):
    folder = CheckpointFolder(tmp_path)
    folder.save({"value": 1}, 1)
    newest = folder.save({"value": 2, "weights": torch.randn(10_000)}, 2)
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.warns(
        UserWarning, match=r"step-00000002-\w+\.pt is not used: its content does not"
    ):
        assert folder.load_latest()["value"] == 1


def test_the_flipped_bit_above_is_one_that_torch_does_not_see(tmp_path):
    path = CheckpointFolder(tmp_path).save({"value": 2, "weights": torch.zeros(10_000)}, 2)
    path.write_bytes(flip(path.read_bytes()))
    assert torch.load(path, weights_only=True)["weights"].count_nonzero() == 1


def test_a_file_from_elsewhere_is_not_taken(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save({"value": 1}, 1)
    torch.save({"format": 1, "value": 9}, tmp_path / "step-00000009.pt")
    with pytest.warns(UserWarning, match="its name has no checksum"):
        assert folder.load_latest()["value"] == 1


def test_a_checkpoint_of_another_run_is_not_taken_and_not_lost(tmp_path):
    other = CheckpointFolder(tmp_path / "other").save({"config": {"lr": 2, "seed": 0}}, 9)
    folder = CheckpointFolder(tmp_path / "ours", expected={"lr": 1, "new": 5})
    folder.save({"config": {"lr": 1, "seed": 3}, "value": 1}, 1)
    placed = tmp_path / "ours" / other.name
    content = other.read_bytes()
    placed.write_bytes(content)
    with pytest.warns(UserWarning, match=r"it is of another run \(lr 2 there, 1 here\)"):
        assert folder.load_latest()["value"] == 1
    folder.save({"config": {"lr": 1}, "value": 2}, 2)
    assert steps(folder) == [1, 2]
    assert placed.with_name(f"foreign-{other.name}").read_bytes() == content


def test_a_damaged_newer_checkpoint_does_not_push_out_a_good_one(tmp_path):
    folder = CheckpointFolder(tmp_path, keep_last=2)
    folder.save({"value": 10}, 10)
    folder.save({"value": 20}, 20).write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="is not used"):
        assert folder.load_latest()["value"] == 10
    folder.save({"value": 13}, 13)
    assert steps(folder) == [10, 13]
    assert folder.load_latest()["value"] == 13


@pytest.mark.parametrize("keep_last", [1, 2])
def test_a_newer_checkpoint_of_another_process_is_left_alone(tmp_path, keep_last):
    """As on a file system without locks, where two processes went on from step 10."""
    ours = CheckpointFolder(tmp_path, keep_last)
    ours.save({"value": 10}, 10)
    assert ours.load_latest()["value"] == 10
    CheckpointFolder(tmp_path).save({"value": 20}, 20)
    ours.save({"value": 13}, 13)
    assert steps(ours) == ([13, 20] if keep_last == 1 else [10, 13, 20])
    assert ours.load_latest()["value"] == 20


NO_MEMORY = RuntimeError(  # as torch raises it
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
    "to allocate 800000000 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (OSError(errno.ESTALE, "Stale file handle"), "Stale file handle"),
        (MemoryError(), r"\(MemoryError\)"),
        (NO_MEMORY, "can't allocate memory"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_now_is_not_taken_for_damaged(
    tmp_path, monkeypatch, error, reason
):
    folder = CheckpointFolder(tmp_path)
    folder.save({"value": 1}, 1)
    newest = folder.save({"value": 2}, 2)

    def refuse(*arguments, **options):
        raise error

    place = (Path, "open") if isinstance(error, OSError) else (torch, "load")
    with monkeypatch.context() as patched:
        patched.setattr(*place, refuse)
        with pytest.raises(
            OSError, match=f"checkpoint .*{newest.name} cannot be read now .*{reason}"
        ):
            folder.load_latest()
    assert folder.load_latest()["value"] == 2


def test_a_file_that_the_disk_cannot_read_is_damaged(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path)
    folder.save({"value": 1}, 1)
    newest = folder.save({"value": 2}, 2)
    opened = Path.open

    def fail(path, *arguments, **options):
        if path == newest:
            raise OSError(errno.EIO, "Input/output error")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", fail)
    with pytest.warns(UserWarning, match=r"is not used: it cannot be read \(OSError"):
        assert folder.load_latest()["value"] == 1


def test_what_was_looked_at_is_read_again_only_if_another_process_saved(tmp_path, monkeypatch):
    folder, reads = CheckpointFolder(tmp_path), []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: reads.append(a) or load(*a, **k))
    folder.save({"value": 1}, 1)
    assert folder.peek()["value"] == folder.load_latest()["value"] == 1
    assert len(reads) == 1
    assert folder.peek()["value"] == 1
    CheckpointFolder(tmp_path).save({"value": 2}, 2)
    assert folder.load_latest()["value"] == 2


def test_a_damaged_one_of_the_same_step_is_replaced(tmp_path):
    folder = CheckpointFolder(tmp_path, keep_last=2)
    folder.save({"value": 20}, 20).write_bytes(b"damaged")
    path = folder.save({"value": 21}, 20)
    assert folder.list() == [path]


def test_nothing_whole_is_an_error_and_not_a_new_start(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save({"value": 1}, 1).write_bytes(b"no checkpoint")
    with (
        pytest.warns(UserWarning, match="is not used"),
        pytest.raises(ValueError, match="none of the 1 checkpoints"),
    ):
        folder.load_latest()


def named_by_content(path):
    """As an attacker would name a file."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(path.with_stem(f"{path.stem}-{digest[:16]}"))


def test_code_hidden_in_a_checkpoint_is_not_run(tmp_path, capfd):
    class Attack:
        def __reduce__(self):
            return print, ("ran",)

    path = tmp_path / "step-00000001.pt"
    torch.save({"format": 1, "payload": Attack()}, path)
    named_by_content(path)
    with (
        pytest.warns(UserWarning, match="it cannot be read"),
        pytest.raises(ValueError, match="none of the 1"),
    ):
        CheckpointFolder(tmp_path).load_latest()
    assert "ran" not in capfd.readouterr().out


@pytest.mark.parametrize("content", [torch.ones(3), {"model": torch.ones(3)}])
def test_something_else_of_torch_is_not_taken(tmp_path, content):
    folder = CheckpointFolder(tmp_path)
    folder.save({"value": 1}, 1)
    torch.save(content, tmp_path / "step-00000002.pt")
    named_by_content(tmp_path / "step-00000002.pt")
    with pytest.warns(UserWarning, match="not as a checkpoint"):
        assert folder.load_latest()["value"] == 1


def test_another_format_is_refused(tmp_path):
    folder = CheckpointFolder(tmp_path)
    path = tmp_path / "step-00000001.pt"
    torch.save({"format": 99}, path)
    named_by_content(path)
    with pytest.raises(ValueError, match="has format 99, this version reads 1"):
        folder.load_latest()


def test_keep_last_must_keep_something(tmp_path):
    with pytest.raises(ValueError, match="keep_last=0"):
        CheckpointFolder(tmp_path, keep_last=0)


def test_a_run_folder_that_vanished_is_not_made_again(tmp_path):
    folder = CheckpointFolder(tmp_path / "run" / "checkpoints")
    with pytest.raises(OSError, match=r"step 3 could not be written .*No such file"):
        folder.save({"value": 1}, 3)
    assert not (tmp_path / "run").exists()


FULL_DISK = """
import sys, resource, torch
from pathlib import Path
from sslortho.train.checkpoint import CheckpointFolder

folder = CheckpointFolder(Path(sys.argv[1]), keep_last=1)
folder.save({"value": 1}, 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    folder.save({"weights": torch.zeros(10, 100_000)}, 2)
except OSError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
@pytest.mark.parametrize("room", [10_000, 3_999_000])  # in the first tensor, in the last block
def test_a_full_disk_costs_only_the_new_checkpoint(tmp_path, room):
    out = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), str(room)],
        capture_output=True, text=True, check=True, timeout=100,
    ).stdout  # fmt: skip
    (kept,) = tmp_path.iterdir()
    assert "step 2 could not be written" in out
    assert os.strerror(27) in out  # EFBIG, as ENOSPC in the middle of a write
    assert f"resumes from {kept}" in out
    assert CheckpointFolder(tmp_path).load_latest()["value"] == 1


def test_an_interrupt_in_a_save_costs_only_the_new_checkpoint(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path, keep_last=1)
    folder.save({"value": 1}, 1)
    opened = Path.open

    def interrupted(self, *arguments, **options):
        file = opened(self, *arguments, **options)
        if ".partial" in self.name:
            monkeypatch.setattr(Path, "open", opened)
            return Interrupting(file)
        return file

    monkeypatch.setattr(Path, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folder.save({"weights": torch.zeros(100_000)}, 2)
    assert steps(folder) == [1]
    assert len(list(tmp_path.iterdir())) == 1


class Interrupting:
    """A file during whose second write the user presses Ctrl-C."""

    def __init__(self, file):
        self.file = file
        self.writes = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, data):
        self.writes += 1
        if self.writes == 2:
            raise KeyboardInterrupt
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_path_that_was_stored_unexpanded_is_the_same(tmp_path, monkeypatch):
    """As versions up to 0.1 stored them."""
    monkeypatch.setenv("HOME", "/home/me")
    CheckpointFolder(tmp_path).save({"value": 1, "config": {"data_dir": "~/d"}}, 1)
    assert (
        CheckpointFolder(tmp_path, expected={"data_dir": "/home/me/d"}).load_latest()["value"] == 1
    )
    other = CheckpointFolder(tmp_path, expected={"data_dir": "/home/you/d"})
    with (
        pytest.warns(UserWarning, match="of another run"),
        pytest.raises(ValueError, match="none of the 1 checkpoints"),
    ):
        other.load_latest()
