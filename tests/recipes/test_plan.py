"""The plan that is said before the first step, against the run that follows."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.script_runs import call_command
from PIL import Image

from sslortho.augment.numba_kernel import must_compile
from sslortho.augment.own_views import OwnView
from sslortho.augment.views import ViewSpec
from sslortho.data.image_sets import ImageArray
from sslortho.models import create_backbone
from sslortho.recipes.fitted import Choice
from sslortho.recipes.plan import (
    describe_choices,
    describe_images,
    describe_network,
    describe_optimizer,
    describe_steps,
    describe_views,
    find_doubts,
    name_network,
    say_compiling,
)
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.pretrain.plan import (
    describe_start,
    find_raw_weights,
    find_unused_labels,
    name_method,
)
from sslortho.recipes.pretrain.resolve import resolve


def image_array(labels):
    images = torch.zeros(len(labels), 3, 24, 32, dtype=torch.uint8)
    return ImageArray(images, torch.tensor(labels), ())


def test_images_are_counted_with_labels_and_size():
    assert describe_images(image_array([0, 1, 1])) == (
        "3 to train on (2 classes; 32 x 24 pixels; 3 channels)"
    )
    assert "no labels" in describe_images(image_array([-1, -1]), "held out")


def test_views_are_counted_with_their_normalisation():
    views = [ViewSpec(crop_size=32), ViewSpec(crop_size=32), ViewSpec(crop_size=16)]
    assert describe_views(views) == "2 of 32 pixels, 1 of 16 pixels, normalised as ImageNet"
    assert (
        describe_views([OwnView(len, 8, (0.5,) * 3)])
        == "1 of 8 pixels, normalised by a mean of its own"
    )
    assert describe_views([OwnView(len, 8)]) == "1 of 8 pixels, not normalised"


def test_parameters_are_those_of_the_backbone_and_of_what_trains():
    backbone = create_backbone("resnet20")
    task = torch.nn.ModuleDict({"backbone": backbone, "head": torch.nn.Linear(64, 10)})
    task["head"].bias.requires_grad = False
    # https://arxiv.org/abs/1512.03385, section 4.2: 0.27 million
    assert describe_network("resnet20", backbone, task).startswith(
        "resnet20, 0.269 million"
    )  # 0.27 with the paper's head
    trained = sum(p.numel() for p in backbone.parameters()) + 640
    assert f"{trained / 1e6:.3g} million are trained" in describe_network("x", backbone, task)


def test_a_module_that_was_handed_over_is_called_by_its_class():
    assert name_network("resnet20", torch.nn.Flatten()) == "resnet20"
    assert name_network("given", torch.nn.Flatten()) == "Flatten, handed over"


def full(**options):
    return resolve(PretrainOptions.of(**options)).options


def test_steps_and_rates_are_those_of_the_schedule():
    options = full(epochs=3, warmup_epochs=0.5, batch_size=64)
    assert describe_steps(options, 22) == (
        "22 an epoch, 66 in 3 epochs; batches of 64; warm-up of 11"
    )
    assert describe_optimizer(options, 1.5, True) == "orth_lars, rate 1.5 = lr 6 x batch 64 / 256"
    assert describe_optimizer(options, 1.5, True, 0.0012).endswith("; biases and norms 0.0012")
    assert describe_optimizer(options, 0.01, False) == "orth_lars, rate 0.01 (absolute)"


def test_a_method_that_was_handed_over_is_called_by_its_class():
    recipe = resolve(PretrainOptions.of(method="simclr"))
    assert name_method(recipe) == "simclr"
    own = SimpleNamespace(options=SimpleNamespace(method="given"), method=recipe.method)
    assert name_method(own) == f"{recipe.method.__name__}, handed over"


def test_initial_weights_and_layers_that_train_otherwise_are_told():
    assert describe_start(PretrainOptions.of()) == ""
    told = describe_start(
        PretrainOptions.of(initial_weights="runs/x", keep_stem=True, layer_decay=0.75)
    )
    assert told == (
        "weights of runs/x; the first layer is not trained; "
        "the rate of each layer is 0.75 times that of the next"
    )


def test_choices_of_one_reason_share_a_row():
    chosen = {"lr": Choice(6.0, "a", "b"), "epochs": Choice(13, "c", ""), "k": Choice(2, "c", "")}
    assert describe_choices(chosen) == {
        "--lr": "6.0 (a; b)", "left out": "--epochs 13, --k 2 (c)"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "steps", "words"),
    [
        ({"epochs": 1}, 11, ["warmup_epochs=1 is the whole run of 1 epoch", "11 steps in all"]),
        ({}, 1, ["1 step in all"]),
        ({"epochs": 2, "warmup_epochs": 2.0}, 400, ["whole run of 2 epochs"]),
        ({}, 143, []),
    ],
)
def test_lengths_that_teach_nothing_are_remarked_on(options, steps, words):
    doubts = find_doubts(full(**options), steps)
    assert len(doubts) == len(words)
    assert all(word in doubt for word, doubt in zip(words, doubts, strict=True))


@pytest.mark.parametrize(
    ("backbone", "options", "remark"),
    [
        ("resnet20", {}, None),
        ("timm:test_vit", {}, "--orth_layers conv orthonormalises"),
        ("vit_small_32", {}, "--orth_layers conv orthonormalises 0.34 %"),
        ("timm:test_vit", {"orth_layers": "all"}, None),
        ("timm:test_vit", {"optim": "orth_sgd"}, None),
        ("timm:test_vit", {"optim": "lars"}, None),
    ],
)
def test_raw_weights_of_a_transformer_are_remarked_on(backbone, options, remark):
    recipe = resolve(PretrainOptions.of(backbone=backbone, lr=1.0, **options))
    doubts = find_raw_weights(recipe, create_backbone(backbone))
    assert len(doubts) == (remark is not None)
    assert all(remark in doubt for doubt in doubts)


@pytest.mark.parametrize(
    ("labels", "others", "remarks"),
    [
        ([0, 1, 1], None, 1),
        ([-1, -1, -1], None, 0),
        ([0, 1, -1], None, 0),
        ([0, 1, 1], [0, 1], 0),
    ],
)
def test_labels_that_no_evaluation_uses_are_remarked_on(labels, others, remarks):
    recipe = SimpleNamespace(options=PretrainOptions.of())
    images = {
        "to train on": image_array(labels),
        "to test on": image_array(others) if others else None,
        "held out": None,
    }
    doubts = find_unused_labels(recipe, images)
    assert len(doubts) == remarks
    assert all("--test_data" in doubt and "--validation" in doubt for doubt in doubts)
    own = SimpleNamespace(
        options=SimpleNamespace(method="given", test=True)
    )  # its loss may use them
    assert find_unused_labels(own, images) == []


@pytest.mark.parametrize(
    ("labels", "tested", "held_out", "remark"),
    [
        ([0, 1], [0, 1], None, None),
        ([-1, -1], [0, 1], None, "not all training images have labels; --validation 0.1 holds out"),
        ([0, -1], [0, 1], None, "not all training images have labels; --validation 0.1 holds out"),
        ([-1, -1], [-1, -1], [-1], "not all training images have labels"),
        ([0, 1], [-1, -1], None, "they have no labels; --validation 0.1 holds out"),
        ([0, 1], [-1, -1], [0], "they have no labels"),
    ],
)
def test_images_to_test_on_that_nothing_uses_are_remarked_on(labels, tested, held_out, remark):
    images = {
        "to train on": image_array(labels),
        "to test on": image_array(tested),
        "held out": image_array(held_out) if held_out else None,
    }
    doubts = find_unused_labels(SimpleNamespace(options=PretrainOptions.of()), images)
    assert len(doubts) == (remark is not None)
    for doubt in doubts:
        assert doubt.startswith(f"the images to test on are not used, since {remark}")
        assert ("--validation" in doubt) is (held_out is None)
    unused = SimpleNamespace(options=PretrainOptions.of(validation=0.1, test=False))
    assert find_unused_labels(unused, {**images, "held out": images["to train on"]}) == []


def test_a_kernel_is_compiled_until_the_disk_has_it(tmp_path):
    program = (
        "from sslortho.augment.numba_kernel import must_compile\n"
        "from small import double\n"
        "print(must_compile(double), double(2.0), must_compile(double))\n"
    )
    (tmp_path / "small.py").write_text(
        "from sslortho.augment.numba_kernel import kernel\n\n\n"
        "@kernel\ndef double(x):\n    return 2 * x\n"
    )
    told = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True,
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")},
        )  # fmt: skip
        told.append(done.stdout.split())
    assert told == [["True", "4.0", "False"], ["False", "4.0", "False"]]


def test_a_kernel_that_cannot_be_kept_is_compiled_each_time(capsys):
    compiled = SimpleNamespace(signatures=[], _cache=object())
    assert must_compile(compiled)
    say_compiling(SimpleNamespace(kernels=(compiled,)))
    told = capsys.readouterr().err
    assert "at every start" in told
    assert "NUMBA_CACHE_DIR" in told
    say_compiling(SimpleNamespace())  # a loader that needs none
    assert capsys.readouterr().err == ""


SMALL = [
    "--backbone", "basic_cnn", "--projector", "16-16", "--threads", "1", "--trackers", "none",
    "--linear_probe", "false", "--evaluate_every", "0",
]  # fmt: skip


@pytest.mark.slow
def test_a_run_says_its_plan_before_the_first_step_on_stderr(tmp_path):
    (tmp_path / "d/train").mkdir(parents=True)
    numbers = np.random.default_rng(0)
    for i in range(40):
        pixels = numbers.integers(0, 255, (130, 140, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"d/train/{i}.png")
    arguments = ["--data", "folder", "--data_dir", str(tmp_path / "d"), *SMALL, "--epochs", "3",
                 "--mixed_precision", "no"]  # fmt: skip
    done = call_command("pretrain", *arguments, "--out", str(tmp_path / "run"))
    assert done.returncode == 0
    for words in (
        "40 to train on (no labels; the first of 140 x 130; 3 channels)",
        "2 of 32 pixels, normalised as CIFAR-10",
        "basic_cnn",
        "CPU, 1 thread; float32",
        "5 an epoch, 15 in 3 epochs; batches of 8",
        "never tested at this scale (15 steps, 40 images)",
        "note: views of 32 pixels show little of photographs",
        "note: 40 photographs are few to learn from",
        "note: neither timm nor torchvision has backbone='basic_cnn'",
        "for the 9 steps that are left",
    ):
        assert words in done.stderr, words
        assert words not in done.stdout
    (folder,) = [line for line in done.stderr.splitlines() if line.startswith("run folder ")]
    assert folder.endswith(str(tmp_path / "run"))
    assert done.stderr.index("to train on") < done.stderr.index("0/15")
    silent = [*arguments, "--announce", "false", "--out", str(tmp_path / "silent")]
    quiet = call_command("pretrain", *silent).stderr
    assert "to train on" not in quiet
    assert "s a step" not in quiet
