"""The main job, as its users start it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from helpers.script_runs import call_script, wait_for_records
from PIL import Image
from safetensors.torch import load_file

from sslortho.models import create_backbone

ROOT = Path(__file__).parents[3]
SCRIPT = str(ROOT / "scripts" / "pretrain.py")
SMALL = [
    "--backbone", "basic_cnn", "--projector", "32-32", "--subset", "400", "--batch_size", "100",
    "--epochs", "4", "--warmup_epochs", "1", "--log_every", "1", "--lr", "5",
    "--threads", "1", "--evaluate_every", "5",
    "--channels_last", "false",  # whose convolution kernels round more, and differently by batch
]  # fmt: skip
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def pretrain(out, *arguments, launcher=(sys.executable,), check=True):
    command = [*launcher, SCRIPT, *SMALL, "--out", str(out), *arguments]
    done = subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=280, check=False
    )
    if check:
        assert done.returncode == 0, done.stderr[-3000:]
    return done


def records(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def final_weights(out):
    newest = sorted((out / "checkpoints").glob("step-*.pt"))[-1]
    return torch.load(newest, weights_only=True)["task"]


def assert_same_weights(first, second):
    first, second = final_weights(first), final_weights(second)
    assert list(first) == list(second)
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run with accelerate's launcher, unbroken."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    launcher = (sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1")
    done = pretrain(out, "--optim", "orth_lars", launcher=launcher)
    return out, done


@pytest.mark.slow
def test_a_run_leaves_all_that_it_promises(finished):
    out, done = finished
    summary = json.loads((out / "summary.json").read_text())
    for name in ("knn_top1", "linear_top1"):
        for figure in (name, f"untrained_{name}"):
            assert 10 < summary[figure] <= 100, figure
    assert summary["steps"] == 16
    assert summary["images_per_second"] > 0
    assert "--optim orth_lars" in summary["command"]
    assert summary["versions"]["torch"] == torch.__version__.split("+")[0]
    assert yaml.safe_load((out / "config.yaml").read_text())["epochs"] == 4
    assert {r["step"] for r in records(out)} == set(range(17))
    assert [r["step"] for r in records(out) if "knn_top1" in r] == [0, 16]
    for picture in ("views.png", "curves.png"):
        with Image.open(out / picture) as image:
            assert min(image.size) > 100
    backbone = create_backbone("basic_cnn")
    assert not backbone.load_state_dict(load_file(out / "backbone.safetensors")).missing_keys
    assert list(out.glob("logs/**/events.out.tfevents.*"))
    assert "untrained" in done.stdout


@pytest.mark.slow
def test_training_lowers_the_loss(finished):
    losses = [r["loss"] for r in records(finished[0]) if "loss" in r]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
def test_the_same_command_on_a_finished_run_only_tells(finished):
    out, _ = finished
    before = (out / "summary.json").read_bytes()
    done = pretrain(out, "--optim", "orth_lars")
    assert "finished already" in done.stdout
    assert (out / "summary.json").read_bytes() == before


@pytest.mark.slow
def test_other_options_on_the_same_folder_are_refused(finished):
    done = pretrain(finished[0], "--optim", "lars", check=False)
    assert done.returncode == 2
    assert "optim ('orth_lars' there, 'lars' here)" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_run_broken_twice_resumes_to_bitwise_the_same_weights(finished, tmp_path):
    whole, _ = finished
    out = tmp_path / "broken"
    command = [sys.executable, SCRIPT, *SMALL, "--out", str(out), "--optim", "orth_lars"]
    # inside the second epoch or so, and inside the third
    for number, count in ((signal.SIGTERM, 6), (signal.SIGKILL, 10)):
        process = subprocess.Popen(
            command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for_records(out, count)
        process.send_signal(number)
        code = process.wait(60)
        assert code == (-signal.SIGKILL if number == signal.SIGKILL else 128 + signal.SIGTERM)
        assert not (out / "summary.json").exists()
    resumed = pretrain(out, "--optim", "orth_lars")
    assert "resuming at step" in resumed.stdout
    assert_same_weights(out, whole)
    ours, theirs = (
        load_file(out / "backbone.safetensors"),
        load_file(whole / "backbone.safetensors"),
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    losses = [[r["loss"] for r in records(run) if "loss" in r] for run in (out, whole)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_a_signal_to_the_whole_group_spares_the_workers_and_saves(tmp_path):
    """As Ctrl-C in a terminal, and as torchrun, send it."""
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    for i in range(400):
        Image.new("RGB", (40, 40), (i % 256, 0, 0)).save(folder / f"{i}.png")
    out = tmp_path / "run"
    command = [
        sys.executable, SCRIPT, *SMALL, "--out", str(out), "--data", "folder", "--loader", "files",
        "--data_dir", str(folder.parent), "--workers", "2", "--batch_size", "20", "--epochs", "50",
        "--trackers", "none",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, env=ENVIRONMENT, start_new_session=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not (out / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGINT, errors[-2000:]
    assert list((out / "checkpoints").glob("step-*.pt"))


@pytest.mark.slow
def test_two_ranks_train_as_one(finished, tmp_path):
    whole, _ = finished
    out = tmp_path / "two"
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone",
                "--nproc_per_node", "2")  # fmt: skip
    pretrain(out, "--optim", "orth_lars", launcher=launcher)
    ours = [r for r in records(out) if "loss" in r]
    theirs = [r for r in records(whole) if "loss" in r]
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], rel=1e-5)
    assert ours[0]["grad_norm"] == pytest.approx(theirs[0]["grad_norm"], rel=1e-4)
    # rounding grows from step to step
    assert [r["loss"] for r in ours[:6]] == pytest.approx([r["loss"] for r in theirs[:6]], rel=1e-2)
    two, one = (json.loads((run / "summary.json").read_text()) for run in (out, whole))
    assert two["steps"] == 16
    assert two["verdict"]["name"] == one["verdict"]["name"]
    probes = [[r for r in records(run) if "probe/rankme" in r] for run in (out, whole)]
    for ours, theirs in zip(*probes, strict=True):
        assert set(ours) == set(theirs)
        for name in (
            "probe/rankme",
            "probe/ranking",
            "probe/weight_change",
            "probe/distinct_images",
        ):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-6 if not ours["step"] else 0.05)


@pytest.fixture(scope="module")
def betons(tmp_path_factory):
    """The digits as train.beton and val.beton."""
    folder = tmp_path_factory.mktemp("betons")
    for split in ("train", "val"):
        subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "write_beton.py"), "--data", "digits",
             "--mode", "raw", "--split", split, "--out", str(folder / f"{split}.beton")],
            env=ENVIRONMENT, check=True, capture_output=True, timeout=100,
        )  # fmt: skip
    return ["--data", "beton", "--data_dir", str(folder), "--workers", "2", "--trackers", "none",
            "--views", "barlow_twins_digits", "--mixed_precision", "no"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)  # five processes
def test_a_beton_trains_resumes_and_shards(betons, tmp_path):
    arguments = [*betons, "--cache", "process"]
    whole, broken, two = (tmp_path / name for name in ("whole", "broken", "two"))
    pretrain(whole, *arguments)
    assert json.loads((whole / "summary.json").read_text())["knn_top1"] > 10
    command = [sys.executable, SCRIPT, *SMALL, "--out", str(broken), *arguments]
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        if (broken / "metrics.jsonl").exists() and len(records(broken)) > 5:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert "resuming at step" in pretrain(broken, *arguments).stdout
    assert_same_weights(broken, whole)
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone",
                "--nproc_per_node", "2")  # fmt: skip
    pretrain(two, *arguments, launcher=launcher)
    first, second = ([r["loss"] for r in records(run) if "loss" in r] for run in (whole, two))
    assert second[:6] == pytest.approx(first[:6], rel=1e-2)


@pytest.mark.slow
def test_unlabelled_folders_train_without_accuracies(tmp_path):
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for i in range(24):
        pixels = torch.randint(0, 256, (32, 32, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    out = tmp_path / "run"
    pretrain(out, "--data", "folder", "--data_dir", str(folder.parent), "--subset", "24",
             "--batch_size", "8", "--trackers", "none")  # fmt: skip
    summary = json.loads((out / "summary.json").read_text())
    assert "knn_top1" not in summary
    assert summary["rankme"] > 1


@pytest.mark.slow
def test_a_user_mistake_is_one_line_and_with_debug_a_traceback(tmp_path):
    arguments = ["--data", "folder", "--data_dir", str(tmp_path / "nothing")]
    done = pretrain(tmp_path / "run", *arguments, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "is no folder" in done.stderr
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="is no folder"):
        call_script("pretrain", *arguments, "--debug")
