"""Trainings that go on from weights: what they begin with, what moves, and what is reported."""

import json
import re

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import sslortho
from sslortho.models import create_backbone
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.pretrain.resolve import resolve
from sslortho.recipes.pretrain.run import build
from sslortho.train.records import read_metrics

FEW = {
    "threads": 1, "trackers": "none", "subset": 60, "batch_size": 20, "epochs": 1, "warmup_epochs": 0,
}  # fmt: skip
PRETRAIN = {**FEW, "projector": "8-8", "linear_probe": False, "evaluate_every": 0}
SUPERVISED = {**FEW, "pictures": False}


def weights(run):
    return load_file(run.folder / "backbone.safetensors")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A pretraining whose weights others begin with."""
    out = tmp_path_factory.mktemp("runs") / "first"
    return sslortho.pretrain("digits", "basic_cnn", out=out, seed=1, **PRETRAIN)


@pytest.fixture(scope="module")
def second(first, tmp_path_factory):
    """A pretraining that goes on from it."""
    out = tmp_path_factory.mktemp("runs") / "second"
    return sslortho.pretrain(
        "digits", "basic_cnn", out=out, initial_weights=first.folder, **PRETRAIN
    )


def test_the_figures_before_are_those_of_the_first_run(first, second):
    for name in ("rankme", "feature_std"):  # of the test images; kNN's voters are chosen by seed
        assert second.summary[f"initial_{name}"] == pytest.approx(first.summary[name], rel=1e-6)
    assert "initial_knn_top1" not in first.summary
    assert second.summary["untrained_rankme"] != second.summary["initial_rankme"]


def test_a_rate_of_zero_keeps_the_weights_of_the_file(first, tmp_path):
    still = sslortho.pretrain(
        "digits", "basic_cnn", out=tmp_path, initial_weights=first.folder / "backbone.safetensors",
        lr=0, lr_biases=0, **PRETRAIN,
    )  # fmt: skip
    ours, theirs = weights(still), weights(first)
    for name, value in theirs.items():
        if not re.search("running|num_batches", name):
            assert torch.equal(ours[name], value), name


def test_other_weights_on_the_same_folder_are_refused(second, tmp_path):
    other = tmp_path / "other.safetensors"
    save_file(create_backbone("basic_cnn", seed=9).state_dict(), other)
    with pytest.raises(ValueError, match="weights of the backbone have changed"):
        sslortho.pretrain(
            "digits", "basic_cnn", out=second.folder, initial_weights=other, **PRETRAIN
        )


def test_the_same_weights_under_another_path_are_the_same_run(first, second, tmp_path, capsys):
    copied = tmp_path / "copied.safetensors"
    copied.write_bytes((first.folder / "backbone.safetensors").read_bytes())
    again = sslortho.pretrain(
        "digits", "basic_cnn", out=second.folder, initial_weights=copied, **PRETRAIN
    )
    assert again.summary == second.summary
    assert "finished already" in capsys.readouterr().out


def test_supervised_training_begins_with_them(first, tmp_path, capsys):
    run = sslortho.supervised(
        "digits", "basic_cnn", out=tmp_path, initial_weights=first.folder, lr=0, **SUPERVISED
    )
    assert torch.equal(weights(run)["features.0.weight"], weights(first)["features.0.weight"])
    report = (run.folder / "report.md").read_text()
    assert "from " + str(first.folder) in report
    for name, folder in (("initial_knn_top1", first.folder), ("knn_top1", run.folder)):
        alone = sslortho.knn_eval(
            folder, "digits", out=tmp_path / name, k=20, temperature=0.07, subset=60, threads=1,
            pictures=False,
        )  # fmt: skip
        assert run.summary[name] == pytest.approx(alone.summary["knn_top1"], abs=1e-9)
    assert "initial_knn_top1" in report
    assert "with the initial weights" in capsys.readouterr().out


def test_a_module_takes_them_too(first):
    module = create_backbone("basic_cnn", seed=7)
    options = PretrainOptions.of(backbone="given", initial_weights=str(first.folder), crop_size=32)
    given = sslortho.recipes.given.Given(backbone=module)
    recipe = resolve(options, given)
    for name, value in weights(first).items():
        assert torch.equal(recipe.start.create().state_dict()[name], value)
    untrained = recipe.backbone.create().state_dict()
    assert torch.equal(untrained["features.0.weight"], module.state_dict()["features.0.weight"])


def test_stem_and_normalisation_are_those_of_the_weights(tmp_path):
    file = tmp_path / "stock.pth"
    torch.save(create_backbone("resnet18", "stock").state_dict(), file)
    recipe = resolve(PretrainOptions.of(backbone="resnet18", initial_weights=str(file)))
    assert recipe.backbone.stem == "stock"  # though 32 pixels alone would give a small one
    assert resolve(PretrainOptions.of(backbone="resnet18")).backbone.stem == "small"


def test_normalisation_is_that_of_our_file(tmp_path):
    info = sslortho.models.BackboneInfo(
        backbone="basic_cnn", stem="stock", crop_size=32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)
    )
    file = tmp_path / "w.safetensors"
    sslortho.models.write_backbone(create_backbone("basic_cnn"), file, info)
    recipe = resolve(PretrainOptions.of(backbone="basic_cnn", initial_weights=str(file)))
    assert {view.mean for view in recipe.views} == {(0.1, 0.2, 0.3)}
    assert recipe.evaluation_views[0].std == (0.4, 0.5, 0.6)


def test_weights_of_timm_are_fetched_by_name(monkeypatch):
    name = "resnet10t"
    published = timm.create_model(name, num_classes=0)
    create = timm.create_model

    def fetch(model, pretrained=False, **settings):
        return published if pretrained else create(model, **settings)

    monkeypatch.setattr(timm, "create_model", fetch)
    recipe = resolve(
        PretrainOptions.of(backbone=f"timm:{name}", initial_weights="timm", crop_size=96)
    )
    state = recipe.start.create().state_dict()
    assert all(torch.equal(state[key], value) for key, value in published.state_dict().items())
    assert recipe.views[0].mean == tuple(published.pretrained_cfg["mean"])


def test_weights_that_cannot_be_fetched_are_a_users_error(monkeypatch):
    def fail(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(
        ValueError, match=r"cannot be fetched .OSError: no route to host.*no internet"
    ):
        resolve(PretrainOptions.of(backbone="timm:resnet10t", initial_weights="timm"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial_weights": "no/such"}, "initial_weights='no/such' does not exist"),
        ({"initial_weights": "timm"}, "has no effect on backbone='resnet20'"),
        ({"initial_weights": "timm", "backbone": "timm:no_such"}, "is not a timm model"),
        ({"initial_weights": "timm", "backbone": "timm:vit_tiny_patch16_384.x"}, "timm"),
        ({"keep_stem": True}, "drawn at random; give initial_weights"),
        ({"layer_decay": 1.5}, "layer_decay=1.5 must be above 0 and below 1"),
        ({"layer_decay": 0.5, "optim": "muon"}, "does not go with optim='muon'"),
    ],
)
def test_mistakes_are_value_errors(options, message):
    with pytest.raises(ValueError, match=message):
        resolve(PretrainOptions.of(**options))


def test_weights_of_another_network_are_an_error_that_names_the_option(first):
    with pytest.raises(ValueError, match=r"initial_weights=.*does not fit the backbone.*basic_cnn"):
        resolve(PretrainOptions.of(backbone="resnet20", initial_weights=str(first.folder)))


@pytest.mark.parametrize("method", ["barlow_twins", "byol", "dino"])
def test_the_stem_is_kept_and_all_else_trains(method, first, tmp_path):
    options = {"projector": "16-8-16" if method == "dino" else "16-8"}
    if method != "barlow_twins":
        options["teacher_momentum"] = 0.5
    file = tmp_path / "start.safetensors"
    start = create_backbone("resnet20_postact", seed=3)
    save_file(start.state_dict(), file)
    run = sslortho.pretrain(
        "digits", "resnet20_postact", method=method, out=tmp_path / "run", initial_weights=file,
        keep_stem=True, **{**PRETRAIN, **options},
    )  # fmt: skip
    before, after = start.state_dict(), weights(run)
    for name, value in before.items():
        stem = name.startswith(("conv1.", "bn1."))
        moves = name.endswith((".weight", ".running_mean"))
        if stem:
            assert torch.equal(after[name], value), name
        elif moves and ("running" not in name or method == "barlow_twins"):
            assert not torch.equal(after[name], value), name


def test_a_stem_that_is_all_there_is_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="leaves nothing to train"):
        sslortho.pretrain(
            "digits", nn.Conv2d(3, 4, 3), out=tmp_path / "run", keep_stem=True, **PRETRAIN
        )


def test_rates_fall_by_layer(first):
    options = PretrainOptions.of(
        backbone="resnet20_postact", layer_decay=0.5, projector="8-8", subset=60, batch_size=20,
        threads=1, trackers="none", lr=2.0, lr_biases=1.0,
    )  # fmt: skip
    run = build(options)
    rates = {
        name: group["lr"] * 256 / 20
        for group in run.training.optimizer.param_groups
        for name in group["names"]
    }
    assert rates["projector.0.weight"] == pytest.approx(2)
    assert rates["backbone.layer3.2.conv2.weight"] == pytest.approx(2 / 2)
    assert rates["backbone.layer3.0.conv1.weight"] == pytest.approx(2 / 2**3)
    assert rates["backbone.layer1.0.bn1.weight"] == pytest.approx(1 / 2**9)
    assert rates["backbone.conv1.weight"] == pytest.approx(2 / 2**10)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "train").mkdir()
    generator = np.random.default_rng(0)
    for i in range(40):
        pixels = generator.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "train" / f"{i}.png")
    return folder


def test_images_without_labels_are_judged_by_views_and_loss(first, photographs, tmp_path):
    options = {**PRETRAIN, "subset": None, "batch_size": 10, "evaluate_every": 1, "epochs": 2,
               "mixed_precision": "no"}  # fmt: skip
    run = sslortho.pretrain(
        photographs,
        "basic_cnn",
        out=tmp_path,
        validation=0.25,
        initial_weights=first.folder,
        **options,
    )
    summary = json.loads((tmp_path / "summary.json").read_text())
    for name in ("neighbour_agreement", "val_loss", "rankme"):
        for state in ("", "initial_", "untrained_"):
            assert summary[state + name] >= 0, state + name
        assert "knn_top1" not in summary
    recorded = [r["val_loss"] for r in read_metrics(tmp_path / "metrics.jsonl") if "val_loss" in r]
    assert len(recorded) == 3  # before the first step, and after each epoch
    assert recorded[0] == pytest.approx(summary["initial_val_loss"], rel=1e-5)
    assert recorded[-1] == pytest.approx(summary["val_loss"], rel=1e-5)
    assert run.summary["inputs"]["held-out"]["count"] == 10


def test_the_loss_of_held_out_images_leaves_a_queue_alone(photographs, tmp_path):
    options = {**PRETRAIN, "subset": None, "batch_size": 10, "projector": "8-8", "queue": 64}
    runs = [
        sslortho.pretrain(
            photographs, "basic_cnn", method="moco_v2", out=tmp_path / str(every), validation=0.25,
            **{**options, "evaluate_every": every},
        )
        for every in (0, 1)
    ]  # fmt: skip
    ours, theirs = map(weights, runs)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
