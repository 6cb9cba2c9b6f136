"""Linear evaluation, fine-tuning and the fast probe, as their users start them."""

import json
import signal
import sys

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

from sslortho.augment.views import CIFAR10_MEAN, CIFAR10_STD
from sslortho.data import load_split
from sslortho.evaluate import inspection
from sslortho.models import BackboneInfo, create_backbone, read_weights, write_backbone

SMALL = [
    "--subset", "400", "--batch_size", "100", "--epochs", "3", "--log_every", "1", "--threads", "1",
    "--channels_last", "false",  # whose convolution kernels round more, and differently by batch
]  # fmt: skip
INFO = BackboneInfo(
    backbone="basic_cnn", stem="stock", crop_size=32, mean=CIFAR10_MEAN, std=CIFAR10_STD
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A backbone with statistics of real images, as a weights file."""
    torch.manual_seed(0)
    backbone = create_backbone("basic_cnn").train()
    images = load_split("digits", None, "train").images[:400].float() / 127.5 - 1
    for _ in range(30):
        backbone(images)
    path = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    write_backbone(backbone, path, INFO)
    return path


@pytest.fixture
def call(weights):
    """The script in this process."""

    def run(out, *arguments):
        given = ["--backbone_from", weights, *SMALL, "--trackers", "none", "--out", out]
        return call_script("linear_eval", *given, *arguments)

    return run


@pytest.fixture
def evaluate(call):
    """The script in this process; its summary."""

    def run(out, *arguments):
        done = call(out, *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads((out / "summary.json").read_text())

    return run


def start(out, weights, *arguments, **launcher):
    return start_script(
        "linear_eval.py", "--backbone_from", str(weights), *SMALL, "--trackers", "none",
        "--pictures", "false", "--out", str(out), *arguments, **launcher,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory, weights):
    """One run with accelerate's launcher, unbroken."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    launcher = (sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1")
    finish(start(out, weights, launcher=launcher))
    return out


@pytest.mark.slow
def test_a_run_reports_the_last_epoch_and_the_best_only_beside_it(evaluate, weights, tmp_path):
    out = tmp_path / "run"
    summary = evaluate(out, "--optim", "orth_sgd", "--momentum", "0.8")
    tested = [r for r in records(out) if "top1" in r]
    assert [r["step"] for r in tested] == [0, 4, 8, 12]
    assert summary["top1"] == tested[-1]["top1"]
    assert summary["top5"] == tested[-1]["top5"]
    assert summary["best_top1"] == max(r["top1"] for r in tested)
    assert 30 < summary["top1"] < summary["top5"] <= 100
    assert "last epoch" in summary["protocol"]
    details = summary["details"]
    assert (details["train_images"], details["test_images"], details["classes"]) == (400, 360, 10)
    for picture in ("views", "curves", "features_pca", "confusion", "neighbours"):
        with Image.open(out / f"{picture}.png") as image:
            assert min(image.size) > 100
        assert f"{picture}.png" in (out / "report.md").read_text()
    assert f"{summary['top1']:.2f}" in (out / "report.md").read_text()


@pytest.mark.slow
def test_the_classifier_and_the_backbone_as_written_give_the_reported_accuracy(
    evaluate, call, weights, tmp_path, monkeypatch
):
    titles = []
    monkeypatch.setattr(
        "sslortho.recipes.linear_eval.training.draw_curves",
        lambda path, runs, title: titles.append(title),
    )
    out = tmp_path / "run"
    tuning = ("--pictures", "false", "--weights", "finetune", "--lr_backbone", "0.1")
    summary = evaluate(out, *tuning)
    assert [", fine-tuning: " in title for title in titles] == [True]
    files = call(out, *tuning).stdout.splitlines()[-1].strip().split(", ")  # of a finished run
    assert set(files) >= {"classifier.safetensors", "backbone.safetensors"}
    assert all((out / name).is_file() for name in files)
    backbone = create_backbone("basic_cnn").eval()
    backbone.load_state_dict(load_file(out / "backbone.safetensors"))
    assert not torch.equal(
        backbone.state_dict()["features.0.weight"], load_file(weights)["features.0.weight"]
    )
    assert read_weights(out).info == INFO
    head = load_file(out / "classifier.safetensors")
    test = load_split("digits", None, "test")
    images = test.images.float() / 255
    images = (images - torch.tensor(CIFAR10_MEAN).view(3, 1, 1)) / torch.tensor(CIFAR10_STD).view(
        3, 1, 1
    )
    logits = backbone(images) @ head["weight"].mT + head["bias"]
    hits = (logits.argmax(dim=1) == test.labels).sum()
    assert summary["top1"] == pytest.approx(100 * int(hits) / 360, abs=100 / 360 + 1e-9)


@pytest.mark.slow
@pytest.mark.ranks
def test_evaluating_on_two_ranks_counts_the_same_and_trains_the_same(whole, weights, tmp_path):
    finish(start(tmp_path / "two", weights, launcher=TORCHRUN))
    one, two = ([r for r in records(out) if "top1" in r] for out in (whole, tmp_path / "two"))
    # before training the two are of the same weights: bitwise
    assert one[0] == two[0]
    losses = [[r["test_loss"] for r in run] for run in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    heads = [
        load_file(out / "classifier.safetensors")["weight"] for out in (whole, tmp_path / "two")
    ]
    torch.testing.assert_close(heads[1], heads[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_broken_evaluation_resumes_to_the_same_result(whole, weights, tmp_path):
    out = tmp_path / "broken"
    process = start(out, weights)
    wait_for_records(out, 8)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "summary.json").exists()
    assert "resuming at step" in finish(start(out, weights))
    ours, theirs = (load_file(run / "classifier.safetensors") for run in (out, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    summaries = [json.loads((run / "summary.json").read_text()) for run in (out, whole)]
    for figure in ("top1", "top5", "test_loss", "best_top1", "loss"):
        assert summaries[0][figure] == summaries[1][figure], figure


@pytest.mark.slow
def test_the_fast_probe_says_that_it_is_one(call, evaluate, whole, tmp_path):
    done = call(tmp_path / "fast", "--protocol", "lbfgs")
    fast = json.loads((tmp_path / "fast" / "summary.json").read_text())
    assert "not the published" in fast["protocol"]
    l2 = fast["details"]["l2"]
    assert "Choice of l2" in (tmp_path / "fast" / "report.md").read_text()
    assert fast["details"]["converged"]
    assert "no effect on protocol='lbfgs': batch_size, epochs" in done.stderr
    assert "batch_size" not in (tmp_path / "fast" / "report.md").read_text().split("## Settings")[1]
    slow = json.loads((whole / "summary.json").read_text())
    assert fast["top1"] > slow["top1"]  # after 12 steps of it
    again = evaluate(tmp_path / "given", "--protocol", "lbfgs", "--l2", str(l2))
    assert again["top1"] == fast["top1"]
    assert "as given" in again["protocol"]


@pytest.mark.slow
def test_the_same_command_on_a_finished_run_only_tells(whole, call):
    before = (whole / "summary.json").read_bytes()
    done = call(whole)
    assert done.returncode == 0
    assert "finished already" in done.stdout
    assert (whole / "summary.json").read_bytes() == before


@pytest.mark.slow
def test_few_labels_are_few(evaluate, tmp_path):
    summary = evaluate(
        tmp_path, "--subset", "null", "--train_percent", "10", "--batch_size", "50",
        "--pictures", "false", "--evaluate_every", "0",
    )  # fmt: skip
    assert summary["details"]["train_images"] == 144  # a tenth of 1,437
    assert 20 < summary["top1"] == summary["best_top1"]
    assert not any("top1" in record for record in records(tmp_path))


@pytest.mark.slow
def test_the_confusion_matrix_is_of_the_figure_also_in_bf16(evaluate, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        inspection, "draw_confusion", lambda path, matrix, names: drawn.append(matrix)
    )
    summary = evaluate(tmp_path / "run", "--mixed_precision", "bf16")
    assert drawn[0].sum() == 360
    assert summary["top1"] == pytest.approx(100 * int(drawn[0].trace()) / 360)


@pytest.mark.slow
def test_a_picture_that_cannot_be_drawn_costs_no_figure(evaluate, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("no fonts")

    monkeypatch.setattr(inspection, "draw_confusion", fail)
    with pytest.warns(UserWarning, match="could not be drawn: no fonts"):
        summary = evaluate(tmp_path / "run")
    assert summary["top1"] > 30


def test_weights_that_are_not_finite_end_in_one_line(weights, call, tmp_path):
    state = load_file(weights)
    state["features.0.weight"][0] = float("inf")
    torch.save(state, tmp_path / "broken.pth")
    done = call(tmp_path / "run", "--backbone_from", tmp_path / "broken.pth")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "features.0.weight" in done.stderr
    assert "not finite" in done.stderr
