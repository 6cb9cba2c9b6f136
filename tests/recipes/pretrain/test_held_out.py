"""Pretraining that holds out a share of its training images to judge by."""

import json

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

import sslortho
from sslortho.data import hold_out, load_split
from sslortho.data.loading import Shard, create_evaluation_loader, load_training_set
from sslortho.evaluate import extract_features
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.pretrain.resolve import resolve

FEW = {
    "model": "basic_cnn", "projector": "16-16", "subset": 300, "batch_size": 60, "epochs": 2,
    "warmup_epochs": 0, "threads": 1, "trackers": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A pretraining that never looks at the test images."""
    out = tmp_path_factory.mktemp("runs") / "held-out"
    return sslortho.pretrain(
        "digits", validation=0.2, test=False, knn_k=1, evaluate_every=1, out=out, **FEW
    )


@pytest.mark.slow
def test_the_held_out_images_are_judged_and_no_others(run):
    summary = run.summary
    assert {name for name in summary if "top1" in name} == {
        f"{when}val_{kind}_top1" for when in ("", "untrained_") for kind in ("knn", "linear")
    }
    assert {role: found["count"] for role, found in summary["inputs"].items()} == {
        "training": 240, "test": 360, "held-out": 60,
    }  # fmt: skip
    assert summary["steps"] == 2 * (240 // 60)
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    found = [record["val_knn_top1"] for record in records if "val_knn_top1" in record]
    assert len(found) == 3
    assert found[-1] == summary["val_knn_top1"]
    assert not any("knn_top1" in record for record in records)


@pytest.mark.slow
def test_its_neighbours_are_those_of_scikit_learn(run):
    options = PretrainOptions.of(
        data="digits", subset=300, validation=0.2, backbone="basic_cnn", threads=1
    )
    train, held_out = hold_out(load_training_set(options), 0.2, options.seed)
    features = []
    for part in (train, held_out):
        loader = create_evaluation_loader(
            options, part, resolve(options).evaluation_views, Shard(torch.device("cpu"))
        )
        found, labels = extract_features(run.backbone, loader)
        features.append((torch.nn.functional.normalize(found).numpy(), labels.numpy()))
    (known, known_labels), (asked, labels) = features
    oracle = KNeighborsClassifier(1).fit(known, known_labels)
    assert run.summary["val_knn_top1"] == pytest.approx(
        100 * np.mean(oracle.predict(asked) == labels)
    )


@pytest.mark.slow
def test_the_test_images_are_judged_at_the_end_alone(tmp_path):
    summary = sslortho.pretrain(
        "digits", validation=0.2, linear_probe=False, evaluate_every=1, out=tmp_path / "o", **FEW
    ).summary
    assert {name for name in summary if "top1" in name} == {
        f"{when}{name}_top1" for when in ("", "untrained_") for name in ("knn", "val_knn")
    }
    text = (tmp_path / "o" / "metrics.jsonl").read_text()
    assert '"val_knn_top1"' in text
    assert '"knn_top1"' not in text


def digits_of(labels):
    """Digits with these labels; -1: unknown."""
    split = load_split("digits", None, "train")
    assert split is not None
    return np.stack([split.open(i) for i in range(len(labels))]), np.array(labels)


def test_some_labels_of_test_images_are_a_mistake_that_is_found_before_training():
    train, test = digits_of([i % 3 for i in range(60)]), digits_of([0, 1, -1, -1, 2])
    given = {**FEW, "subset": None, "evaluate_every": 0}
    with pytest.raises(ValueError, match=r"test_data: 2 of the 5 images .* have no label"):
        sslortho.pretrain(train, test_data=test, **given)


@pytest.mark.slow
def test_test_images_without_labels_are_left_out_and_it_is_said(tmp_path, capsys):
    train, test = digits_of([i % 3 for i in range(60)]), digits_of([-1] * 5)
    given = {**FEW, "subset": None, "evaluate_every": 0, "out": tmp_path / "run"}
    summary = sslortho.pretrain(train, test_data=test, **given).summary
    assert not any("top1" in name for name in summary)
    assert "pair_ranking" in summary
    assert (
        "the images to test on are not used, since they have no labels" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"validation": 1.0}, "validation=1.0 must be above 0 and below 1"),
        ({"test": False}, "test=False leaves nothing to evaluate; give validation"),
    ],
)
def test_wrong_values(given, message):
    with pytest.raises(ValueError, match=message):
        PretrainOptions.of(**given)


def test_held_out_images_are_not_trained_on():
    train = load_split("digits", None, "train")
    assert train is not None
    rest, held_out = hold_out(train, 0.1, 0)
    names = [
        {image.tobytes() for image in map(part.open, range(len(part)))} for part in (rest, held_out)
    ]
    assert len(rest) + len(held_out) == len(train)
    assert not names[0] & names[1]
