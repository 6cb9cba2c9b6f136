import pytest
import torch

from sslortho.train import CheckpointFolder, write_atomically


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def half(file):
        file.write(b"new, but")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_newest_checkpoints_are_kept(tmp_path):
    folder = CheckpointFolder(tmp_path / "checkpoints", keep_last=2)
    for step in (3, 20, 100, 1000):
        folder.save({"value": step}, step)
    assert [path.name for path in folder.list()] == ["step-00000100.pt", "step-00001000.pt"]
    assert folder.load_latest()["value"] == 1000


def test_what_a_killed_process_left_is_removed_by_the_next_checkpoint(tmp_path):
    left = tmp_path / ".step-00000007.pt.4711.partial"
    left.write_bytes(b"half")
    folder = CheckpointFolder(tmp_path)
    assert folder.load_latest() is None
    path = folder.save({"value": 1}, 8)
    assert list(tmp_path.iterdir()) == [path]


def test_no_checkpoint_is_none(tmp_path):
    assert CheckpointFolder(tmp_path / "nothing").load_latest() is None


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save({"value": 1}, 1)
    newest = folder.save({"value": 2, "weights": torch.randn(1000)}, 2)
    newest.write_bytes(newest.read_bytes()[:900])
    with pytest.warns(UserWarning, match="step-00000002.pt cannot be read"):
        assert folder.load_latest()["value"] == 1


def test_a_damaged_newer_checkpoint_does_not_push_out_a_good_one(tmp_path):
    folder = CheckpointFolder(tmp_path, keep_last=1)
    folder.save({"value": 20}, 20).write_bytes(b"damaged")
    folder.save({"value": 13}, 13)
    assert folder.load_latest()["value"] == 13


def test_nothing_readable_is_an_error_and_not_a_new_start(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save({"value": 1}, 1).write_bytes(b"no checkpoint")
    with (
        pytest.warns(UserWarning, match="cannot be read"),
        pytest.raises(ValueError, match="none of the 1 checkpoints"),
    ):
        folder.load_latest()


def test_code_hidden_in_a_checkpoint_is_not_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return print, ("ran",)

    torch.save({"format": 1, "payload": Attack()}, tmp_path / "step-00000001.pt")
    with (
        pytest.warns(UserWarning, match="cannot be read"),
        pytest.raises(ValueError, match="none of the 1"),
    ):
        CheckpointFolder(tmp_path).load_latest()


def test_another_format_is_refused(tmp_path):
    folder = CheckpointFolder(tmp_path)
    torch.save({"format": 99}, tmp_path / "step-00000001.pt")
    with pytest.raises(ValueError, match="has format 99, this version reads 1"):
        folder.load_latest()


def test_keep_last_must_keep_something(tmp_path):
    with pytest.raises(ValueError, match="keep_last=0"):
        CheckpointFolder(tmp_path, keep_last=0)
