"""A GPU that is too small: one line with what to lower, and the last checkpoint stays."""

import json

import pytest
import torch
from helpers.linear_training import Regression, train
from helpers.script_runs import call_command

from sslortho.methods.barlow_twins import BarlowTwins
from sslortho.train.device_memory import DeviceMemoryError, describe_shortage


def overflow(*arguments, **options):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 64.00 GiB.")


def test_the_trainer_says_what_to_lower_and_where_the_training_stands(tmp_path, capsys):
    task = Regression()
    forward, calls = task.forward, []

    def grow(views, labels):
        calls.append(1)
        return overflow() if len(calls) > 8 else forward(views, labels)

    task.forward = grow
    with pytest.raises(DeviceMemoryError, match=r"raise accumulation_steps \(1\)") as caught:
        train(tmp_path, task=task)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    said = capsys.readouterr().out
    assert "training ended early, after step 8" in said
    assert "step-00000006-" in said
    assert str(caught.value).endswith(
        "; with another out, since a run that has begun keeps these options"
    )
    assert len(list((tmp_path / "checkpoints").glob("step-00000006-*.pt"))) == 1


def test_without_a_checkpoint_the_same_out_takes_other_options(tmp_path):
    def grow_in_its_third_step(trainer):
        step = trainer.optimizer.step
        trainer.optimizer.step = lambda: overflow() if trainer.progress.step == 2 else step()

    with pytest.raises(DeviceMemoryError) as caught:
        train(tmp_path, prepare=grow_in_its_third_step)
    assert "another out" not in str(caught.value)


def test_an_evaluation_is_told_what_helps_there(tmp_path, capsys):
    with pytest.raises(DeviceMemoryError) as caught:
        train(tmp_path, evaluate=lambda task: overflow(), evaluate_every=1)
    assert str(caught.value) == (
        "the GPU's memory did not suffice in an evaluation: free what other processes hold, which "
        "nvidia-smi shows; checkpoints and the weights of a finished training stay"
    )
    assert "training ended early, after step 0" in capsys.readouterr().out
    values = {"batch_size": 8, "mixed_precision": "no", "epochs": 1, "accumulation_steps": 1}
    advice = describe_shortage({**values, "crop_size": 224}, trains=False)
    assert "lower crop_size (224), with another out; or free" in advice
    assert not any(name in advice for name in values)


SMALL = (
    "--subset", "16", "--batch_size", "8", "--epochs", "1", "--warmup_epochs", "0", "--backbone", "basic_cnn",
    "--projector", "8-8", "--threads", "1", "--trackers", "none", "--evaluate_every", "0",
)  # fmt: skip


def test_a_command_ends_with_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(BarlowTwins, "forward", overflow)
    done = call_command("pretrain", *SMALL, "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last == (
        "sslortho pretrain: stopped: the GPU's memory did not suffice: lower batch_size (8); or raise "
        "accumulation_steps (1), which cuts the samples of a step into parts; or give mixed_precision bf16, "
        "which takes about half"
    )
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "failed"
    assert "lower batch_size (8)" in status["message"]


def test_no_option_is_spoken_of_that_the_command_lacks():
    assert describe_shortage({"mixed_precision": "no"}, trains=False) == (
        "the GPU's memory did not suffice: give mixed_precision bf16, which takes about half"
    )
    assert "nvidia-smi" in describe_shortage({"mixed_precision": "bf16"}, trains=False)
    advice = describe_shortage({"batch_size": None, "crop_size": 224}, trains=False)
    assert advice.endswith("did not suffice: lower crop_size (224)")
    advice = describe_shortage({"batch_size": None, "crop_size": 224}, trains=True)
    assert advice.endswith("did not suffice: lower batch_size; or lower crop_size (224)")
    assert "mixed_precision" not in describe_shortage({"mixed_precision": "bf16"}, trains=True)
