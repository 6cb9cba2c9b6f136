"""Commands on folders with broken images: refused, left out, or met in the middle of a run."""

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sslortho
from sslortho.data import ImageFiles
from sslortho.data.decoding import naming_broken
from sslortho.data.skip_list import read_skip_list
from sslortho.runs.status import RunStoppedError
from sslortho.train.trainer import Trainer

SMALL = {
    "backbone": "basic_cnn", "crop_size": 16, "batch_size": 4, "epochs": 2, "evaluate_every": 2,
    "projector": "8-8", "trackers": "none", "loader": "files", "workers": 0, "linear_probe": False, "knn_k": 2,
    "checkpoint_every": 1, "log_every": 1,
}  # fmt: skip


@pytest.fixture
def data(tmp_path) -> Path:
    for split in ("train", "test"):
        for label in "ab":
            for i in range(8 if split == "train" else 2):
                rng = np.random.default_rng(1000 * (split == "test") + 100 * ord(label) + i)
                pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
                path = tmp_path / "data" / split / label / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return tmp_path / "data"


def spoil(path: Path) -> None:
    """Change a byte in its middle: header and end stay, and its checksum is wrong."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def test_a_broken_file_is_refused_before_the_run_has_a_folder(data, tmp_path):
    (data / "train" / "a" / "0.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a/0\.png cannot be read .*--skip_broken"):
        sslortho.pretrain(str(data), out=tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Training with few")
def test_features_of_the_images_that_are_whole(data):
    options = {"backbone": "basic_cnn", "crop_size": 16, "loader": "files", "workers": 0}
    whole = sslortho.extract_features("random", str(data), split="train", **options)
    spoil(data / "train" / "a" / "3.png")
    with pytest.warns(UserWarning, match=r"1 of 16 train images .*train/a/3\.png"):
        found = sslortho.extract_features(
            "random", str(data), split="train", skip_broken=True, **options
        )
    kept = torch.arange(16) != 3
    assert torch.equal(found.labels, whole.labels[kept])
    torch.testing.assert_close(found.features, whole.features[kept])


@pytest.mark.slow
def test_a_file_that_breaks_in_mid_run_loses_nothing(data, tmp_path, monkeypatch):
    """The run resumes to the weights of an undisturbed one, once the file is whole again."""
    expected = sslortho.pretrain(str(data), out=tmp_path / "whole", **SMALL)
    whole = data / "train" / "b" / "5.png"
    step = Trainer._step

    def break_later(self, *arguments):
        step(self, *arguments)
        if self.progress.step + 1 == 4:  # the second epoch reads it again
            shutil.copy(whole, tmp_path / "copy.png")
            spoil(whole)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", break_later)
        with pytest.raises(ValueError, match=r"b/5\.png cannot be read .*--skip_broken"):
            sslortho.pretrain(str(data), out=tmp_path / "run", **SMALL)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    assert 0 < max(steps) < 8
    shutil.copy(tmp_path / "copy.png", whole)
    found = sslortho.pretrain(str(data), out=tmp_path / "run", **SMALL)
    for ours, theirs in zip(
        found.backbone.state_dict().values(), expected.backbone.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:1 of 16 train images")
def test_a_refused_start_leaves_no_list_behind_that_counts(data, tmp_path, monkeypatch):
    """A run that began on whole images goes on with them, however often it was asked meanwhile."""
    step = Trainer._step

    def stop(self, *arguments) -> None:
        step(self, *arguments)
        if self.progress.step + 1 == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stop)
        with pytest.raises(RunStoppedError, match="step 5"):
            sslortho.pretrain(str(data), out=tmp_path / "run", **SMALL)
    shutil.copy(data / "train/a/3.png", tmp_path / "copy.png")
    spoil(data / "train/a/3.png")
    with pytest.raises(ValueError, match=r"of 16 images 1 removed \(a/3.png\)"):
        sslortho.pretrain(str(data), out=tmp_path / "run", skip_broken=True, **SMALL)
    shutil.copy(tmp_path / "copy.png", data / "train/a/3.png")
    found = sslortho.pretrain(str(data), out=tmp_path / "run", skip_broken=True, **SMALL)
    assert found.summary["steps"] == 8
    assert read_skip_list(tmp_path / "run" / "skipped_images.txt")["train"] == {}


def copy_images(folder: Path, count: int) -> None:
    """That many whole images of one kind in a flat folder."""
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (16, 16), (number, 2 * number, 3 * number)).save(folder / f"{number}.png")


def test_few_broken_files_of_ones_own_are_left_out_unasked(tmp_path, monkeypatch):
    """By their header and end; the run goes on without them, whatever was broken or mended since."""
    photos, out = tmp_path / "photos", tmp_path / "run"
    copy_images(photos, 40)
    (photos / "7.png").write_bytes(b"")
    (photos / "9.png").write_bytes((photos / "9.png").read_bytes()[:60])
    step = Trainer._step

    def stop(self, *arguments) -> None:
        step(self, *arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stop)
        with (
            pytest.warns(
                UserWarning, match=r"2 of 40 train images are broken and left out, photos/7\.png"
            ),
            pytest.raises(RunStoppedError),
        ):
            sslortho.pretrain(str(photos), out=out, **SMALL)
    assert list(read_skip_list(out / "skipped_images.txt")["train"]) == [
        "photos/7.png",
        "photos/9.png",
    ]
    Image.new("RGB", (16, 16)).save(photos / "7.png")
    (photos / "11.png").rename(tmp_path / "11.png")
    (photos / "11.png").write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="2 of 40 train images"),
        pytest.raises(ValueError, match=r"they broke after .*skipped_images\.txt was written"),
    ):
        sslortho.pretrain(str(photos), out=out, **SMALL)
    (tmp_path / "11.png").rename(photos / "11.png")
    with pytest.warns(UserWarning, match="2 of 40 train images"):
        found = sslortho.pretrain(str(photos), out=out, **SMALL)
    assert found.summary["inputs"]["training"]["count"] == 38


def test_a_file_that_the_system_cannot_read_is_not_left_out_unasked(tmp_path, monkeypatch):
    photos, plain = tmp_path / "photos", ImageFiles.check
    copy_images(photos, 40)

    def check(self, index, thorough=False):
        if Path(self.paths[index]).name == "8.png":
            with naming_broken(self.paths[index]):
                raise OSError(errno.EMFILE, "Too many open files")
        return plain(self, index, thorough)

    monkeypatch.setattr(ImageFiles, "check", check)
    with pytest.raises(ValueError, match=r"8\.png cannot be read .*Too many open files"):
        sslortho.pretrain(str(photos), out=tmp_path / "run", **SMALL)


def test_many_broken_files_are_an_error(tmp_path):
    photos = tmp_path / "photos"
    copy_images(photos, 40)
    for name in ("3.png", "5.png", "20.png"):
        (photos / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"3 of 40 images cannot be read: .*--skip_broken"):
        sslortho.pretrain(str(photos), out=tmp_path / "run", **SMALL)
    (photos / "3.png").unlink()
    with pytest.raises(ValueError, match=r"2 of 39 images cannot be read"):
        sslortho.pretrain(str(photos), out=tmp_path / "run", **SMALL)
    (photos / "5.png").unlink()
    with pytest.raises(ValueError, match=r"20\.png cannot be read.*--skip_broken"):
        sslortho.pretrain(str(photos), out=tmp_path / "run", skip_broken=False, **SMALL)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_lists_what_it_leaves_out(data, tmp_path):
    spoil(data / "train" / "a" / "0.png")
    spoil(data / "test" / "b" / "1.png")
    with (
        pytest.warns(UserWarning, match="1 of 16 train images"),
        pytest.warns(UserWarning, match="1 of 4 test images"),
    ):
        sslortho.pretrain(str(data), out=tmp_path / "run", skip_broken=True, **SMALL)
    assert {
        s: list(n) for s, n in read_skip_list(tmp_path / "run" / "skipped_images.txt").items()
    } == {
        "train": ["train/a/0.png"],
        "test": ["test/b/1.png"],
    }
