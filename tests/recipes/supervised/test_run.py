"""Supervised classification, as its users start it."""

import fcntl
import json
import re
import signal
import sys

import numpy as np
import pytest
import torch
from helpers.script_runs import (
    TORCHRUN,
    call_script,
    finish,
    records,
    start_script,
    wait_for_records,
)
from PIL import Image
from safetensors.torch import load_file

import sslortho
from sslortho.augment.views import CIFAR10_MEAN, CIFAR10_STD
from sslortho.data import load_split
from sslortho.models import create_backbone, read_weights
from sslortho.recipes.supervised.build import Supervised
from sslortho.runs.status import read_status

SMALL = [
    "--backbone", "basic_cnn", "--subset", "400", "--batch_size", "100", "--epochs", "3",
    "--log_every", "1", "--threads", "1", "--trackers", "none",
    "--channels_last", "false",  # whose convolution kernels round more, and differently by batch
]  # fmt: skip
PLAIN = ("--pictures", "false")


def call(out, *arguments):
    """The script in this process."""
    return call_script("supervised", *SMALL, "--out", out, *arguments)


def train(out, *arguments):
    """The summary of a run of the script in this process."""
    done = call(out, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "summary.json").read_text())


def start(out, *arguments, **launcher):
    return start_script("supervised.py", *SMALL, *PLAIN, "--out", str(out), *arguments, **launcher)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One run with accelerate's launcher, unbroken."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    launcher = (sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1")
    finish(start(out, launcher=launcher))
    return out


@pytest.mark.slow
def test_a_run_learns_and_reports_its_last_epoch(tmp_path):
    summary = train(tmp_path, "--momentum", "0.8", "--nesterov", "true")
    tested = [r for r in records(tmp_path) if "top1" in r]
    assert [r["step"] for r in tested] == [0, 4, 8, 12]
    for figure in ("top1", "top5", "test_loss"):
        assert summary[figure] == tested[-1][figure]
    assert tested[0]["top1"] + 20 < summary["top1"] < summary["top5"] <= 100
    assert summary["diverged"] is False
    assert summary["parameters"] == 24_714  # appendix A.1
    assert summary["parameter_bytes"] == summary["optimizer_state_bytes"] == 4 * 24_714
    for picture in ("views", "curves", "features_pca", "confusion", "neighbours"):
        with Image.open(tmp_path / f"{picture}.png") as image:
            assert min(image.size) > 100
        assert f"{picture}.png" in (tmp_path / "report.md").read_text()


@pytest.mark.slow
def test_the_network_as_written_gives_the_reported_accuracy(tmp_path):
    summary = train(tmp_path, *PLAIN)
    backbone = create_backbone("basic_cnn").eval()
    backbone.load_state_dict(load_file(tmp_path / "backbone.safetensors"))
    assert read_weights(tmp_path).info.mean == CIFAR10_MEAN
    head = load_file(tmp_path / "classifier.safetensors")
    test = load_split("digits", None, "test")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (CIFAR10_MEAN, CIFAR10_STD))
    with torch.no_grad():
        logits = backbone((test.images / 255 - mean) / std) @ head["weight"].mT + head["bias"]
    hits = (logits.argmax(dim=1) == test.labels).sum()
    assert summary["top1"] == pytest.approx(100 * int(hits) / 360, abs=100 / 360 + 1e-9)
    loss = torch.nn.functional.cross_entropy(logits, test.labels)
    assert summary["test_loss"] == pytest.approx(float(loss), rel=1e-4)


@pytest.mark.slow
def test_held_out_images_are_looked_at_on_the_way_and_test_images_at_the_end(tmp_path):
    summary = train(tmp_path, *PLAIN, "--validation", "0.25")
    assert summary["details"]["train_images"] == 300
    assert not any("top1" in record for record in records(tmp_path))
    seen = [r for r in records(tmp_path) if "val_top1" in r]
    assert [r["epoch"] for r in seen] == [0, 1, 2, 3]
    assert summary["val_top1"] == seen[-1]["val_top1"]
    assert summary["val_top1"] % 1 == 0  # of 100 images
    assert summary["top1"] > 20


@pytest.mark.slow
def test_test_images_need_not_be_looked_at(tmp_path, monkeypatch):
    def refuse(self, task):
        raise AssertionError("test images were looked at")

    monkeypatch.setattr(Supervised, "evaluate", refuse)
    summary = train(tmp_path, "--validation", "0.25", "--test", "false")
    assert "top1" not in summary
    assert summary["val_loss"] > 0


def test_images_of_ones_own_need_no_test_images_where_none_are_used(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (40, 12, 12, 3), dtype=np.uint8)
    given = {
        "epochs": 1,
        "threads": 1,
        "trackers": "none",
        "evaluate_every": 0,
        "out": tmp_path / "r",
    }
    data = images, np.arange(40) % 2
    with pytest.raises(ValueError, match="has no test images; give test_data"):
        sslortho.supervised(data, "basic_cnn", **given)
    summary = sslortho.supervised(data, "basic_cnn", validation=0.25, test=False, **given).summary
    assert summary["val_top1"] in range(0, 101, 10)
    assert set(summary["inputs"]) == {"training", "held-out"}


def test_a_run_that_diverges_says_so_and_is_finished(tmp_path):
    wild = (*PLAIN, "--optim", "sgd", "--lr", "1e30", "--momentum", "0", "--max_bad_steps", "2")
    for _ in range(2):  # the second time it only tells
        done = call(tmp_path, *wild)
        assert done.returncode == 1
        assert "diverged after" in done.stdout
    assert read_status(tmp_path).state == "finished"
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["diverged"] is True
    assert summary["top1"] is None
    assert "It diverged: " in summary["protocol"]
    assert not (tmp_path / "backbone.safetensors").exists()


@pytest.mark.slow
def test_weights_that_are_not_finite_at_the_end_are_not_written(tmp_path):
    """No evaluation on the way sees them, and the steps without gradients are too few to stop at."""
    done = call(
        tmp_path, *PLAIN, "--optim", "sgd", "--lr", "1e30", "--momentum", "0", "--epochs", "1",
        "--evaluate_every", "0",
    )  # fmt: skip
    assert done.returncode == 1
    assert json.loads((tmp_path / "summary.json").read_text())["diverged"] is True
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_folder_in_which_another_process_works_is_left_alone(tmp_path):
    tmp_path.joinpath(".lock").touch()
    with tmp_path.joinpath(".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = call(tmp_path, *PLAIN)
    assert done.returncode == 2
    assert "another process is at work there" in done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [".lock"]


def test_without_momentum_the_optimizer_keeps_nothing(tmp_path):
    summary = train(tmp_path, *PLAIN, "--momentum", "0", "--epochs", "1")
    assert summary["optimizer_state_bytes"] == 0


@pytest.mark.slow
def test_a_broken_run_resumes_to_the_same_weights_and_figures(whole, tmp_path):
    out = tmp_path / "broken"
    process = start(out)
    wait_for_records(out, 8)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "summary.json").exists()
    assert "resuming at step" in finish(start(out))
    for name in ("backbone", "classifier"):
        ours, theirs = (load_file(run / f"{name}.safetensors") for run in (out, whole))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    summaries = [json.loads((run / "summary.json").read_text()) for run in (out, whole)]
    for figure in ("top1", "top5", "test_loss", "loss", "train_top1", "optimizer_state_bytes"):
        assert summaries[0][figure] == summaries[1][figure], figure


@pytest.mark.slow
@pytest.mark.ranks
def test_two_ranks_that_diverge_end_together(tmp_path):
    wild = ("--optim", "sgd", "--lr", "1e30", "--momentum", "0", "--max_bad_steps", "2")
    process = start(tmp_path, *wild, launcher=TORCHRUN)
    process.communicate(timeout=200)
    assert process.returncode == 1
    assert json.loads((tmp_path / "summary.json").read_text())["diverged"] is True


@pytest.mark.slow
@pytest.mark.ranks
def test_two_ranks_train_as_one(whole, tmp_path):
    finish(start(tmp_path / "two", launcher=TORCHRUN))
    one, two = ([r for r in records(out) if "top1" in r] for out in (whole, tmp_path / "two"))
    assert one[0] == two[0]  # before training, bitwise
    assert [r["test_loss"] for r in two] == pytest.approx([r["test_loss"] for r in one], rel=1e-3)


@pytest.mark.slow
def test_the_same_command_on_a_finished_run_only_tells(whole):
    before = (whole / "summary.json").read_bytes()
    done = call(whole, *PLAIN)
    assert done.returncode == 0
    assert "finished already" in done.stdout
    assert (whole / "summary.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--schedule", "multi_step"), "needs milestones"),
        (("--milestones", "[1]"), "milestones=.* has no effect on schedule='cosine'"),
        (("--schedule", "multi_step", "--milestones", "[2,3]"), "rising epochs between 0 and 3"),
        (("--momentum", "1.5"), "momentum=1.5 must be from 0 to below 1"),
        (("--nesterov", "--momentum", "0"), "nesterov=True has no effect on momentum=0"),
        (("--head_classes", "9"), "head_classes=9 is less than the 10 classes"),
        (("--optim", "sgd", "--log_gradients"), "log_gradients=True has no effect on optim='sgd'"),
        (("--test", "false"), "leaves nothing to evaluate"),
        (("--validation", "1"), "validation=1.0 must be above 0 and below 1"),
        (
            ("--optim", "adam", "--momentum", "0.9"),
            "momentum=0.9 is not an option of optim='adam'; give its betas",
        ),
        (("--optim", "sgd", "--attention", "heads"), "attention='heads' has no effect"),
        (("--attention", "heads"), "no attention layer"),
        (("--optim", "lars", "--weight_decay_biases", "1e-4"), "no effect on optim='lars'"),
        (("--views", "supervised_small", "--crop_size", "64"), "crop_size=64 with crop_padding=8"),
        (("--validation", "0.8"), "batch_size=100 is larger than the data"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, arguments, message):
    done = call(tmp_path, *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert re.search(message, done.stderr)
    assert not (tmp_path / "summary.json").exists()
