"""Batch norm of single samples is told before training."""

import pytest
import torch
from helpers.script_runs import call_script
from PIL import Image
from torch import nn

from sslortho.models.sync_batch_norm import convert_sync_batch_norm
from sslortho.train.batch_norm import SingleSampleError, check_batch_norm


def network(norm):
    return nn.Sequential(nn.Linear(4, 4), norm)


@pytest.mark.parametrize(
    ("batch", "parts", "ranks", "synced", "refused"),
    [
        (1, 1, 1, False, True), (2, 1, 1, False, False), (2, 2, 1, False, True), (4, 2, 1, False, False),
        (2, 1, 2, False, True), (2, 1, 2, True, False), (4, 2, 2, False, True), (2, 2, 1, True, True),
    ],
)  # fmt: skip
def test_parts_of_one_sample_are_refused(batch, parts, ranks, synced, refused):
    made = network(nn.BatchNorm1d(4))
    made = convert_sync_batch_norm(made, torch.device("cpu")) if synced else made
    if not refused:
        check_batch_norm(made, batch, parts, ranks)
        return
    with pytest.raises(SingleSampleError, match=f"batch_size={batch}.*at least 2 samples"):
        check_batch_norm(made, batch, parts, ranks)


def test_networks_that_take_a_single_sample_go_on():
    for norm in (nn.LayerNorm(4), nn.BatchNorm2d(4)):
        check_batch_norm(network(norm), 1, 1, 1)

    class Frozen(nn.Sequential):
        def train(self, mode=True):
            return super().train(False)

    check_batch_norm(Frozen(nn.BatchNorm1d(4)), 1, 1, 1)


def test_modes_stay():
    made = network(nn.BatchNorm1d(4)).eval()
    check_batch_norm(made, 2, 1, 1)
    assert not any(module.training for module in made.modules())


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes", [["--batch_size", "1"], ["--batch_size", "4", "--accumulation_steps", "4"]]
)
def test_pretraining_says_so_in_one_line(tmp_path, sizes):
    done = call_script(
        "pretrain", *sizes, "--subset", "20", "--threads", "1", "--trackers", "none",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 2
    assert f"batch_size={sizes[1]}" in done.stderr
    assert "error:" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_one_class_is_told_before_training_where_a_probe_needs_two(tmp_path):
    for split in ("train", "test"):
        folder = tmp_path / "data" / split / "cat"
        folder.mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (32, 32), (50 * i, 90, 0)).save(folder / f"{i}.png")
    done = call_script(
        "pretrain", "--data", "folder", "--data_dir", tmp_path / "data", "--batch_size", "2", "--epochs", "1",
        "--backbone", "basic_cnn", "--projector", "8-8", "--threads", "1", "--trackers", "none",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 2
    assert "linear_probe=True: the training images are of one class alone" in done.stderr
    assert not (tmp_path / "run").exists()
