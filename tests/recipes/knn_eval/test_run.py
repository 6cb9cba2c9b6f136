"""kNN evaluation, as its users start it."""

import json

import numpy as np
import pytest
import torch
from helpers.script_runs import TORCHRUN, call_script, finish, start_script
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional

from sslortho.augment import ViewRenderer, create_views
from sslortho.augment.views import CIFAR10_MEAN, CIFAR10_STD
from sslortho.data import load_split
from sslortho.data.subsets import balanced_subset
from sslortho.models import create_backbone
from sslortho.recipes.command_line import parse_options
from sslortho.recipes.knn_eval.options import KnnEvalOptions
from sslortho.recipes.knn_eval.run import resolve

RANDOM = ["--backbone_from", "random", "--backbone", "basic_cnn", "--threads", "1"]


def call(out, *arguments):
    """The script in this process."""
    return call_script("knn_eval", *RANDOM, "--out", out, *arguments)


def evaluate(out, *arguments):
    """The summary of a run of the script in this process."""
    done = call(out, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "summary.json").read_text())


def features(split):
    """Features and labels by the random backbone of seed 0; images are normalised by hand."""
    torch.manual_seed(0)
    backbone = create_backbone("basic_cnn").eval()
    data = load_split("digits", None, split)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (CIFAR10_MEAN, CIFAR10_STD))
    with torch.no_grad():
        rows = backbone((data.images.float() / 255 - mean) / std)
    return functional.normalize(rows, dim=1).double().numpy(), data.labels.numpy()


@pytest.mark.slow
def test_the_figure_is_that_of_scikit_learns_classifier(tmp_path):
    summary = evaluate(tmp_path, "--k", "15", "--temperature", "0.2")
    train, labels = features("train")
    test, truth = features("test")
    peer = KNeighborsClassifier(
        15, algorithm="brute", metric="cosine",
        weights=lambda distances: torch.from_numpy((1 - distances) / 0.2).exp().numpy(),
    )  # fmt: skip
    expected = 100 * (peer.fit(train, labels).predict(test) == truth).mean()
    assert summary["knn_top1"] == pytest.approx(expected, abs=100 / 360 + 1e-9)  # a near tie
    assert summary["knn_top1"] < summary["knn_top5"] <= 100
    assert (summary["details"]["k"], summary["details"]["temperature"]) == (15, 0.2)
    for picture in ("features_pca", "confusion", "neighbours"):
        with Image.open(tmp_path / f"{picture}.png") as image:
            assert min(image.size) > 100
        assert f"{picture}.png" in (tmp_path / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.ranks
def test_two_ranks_give_identical_figures(tmp_path):
    one = evaluate(tmp_path / "one", "--pictures", "false", "--subset", "1000")
    process = start_script(
        "knn_eval.py",
        *RANDOM,
        "--out",
        str(tmp_path / "two"),
        "--subset",
        "1000",
        launcher=TORCHRUN,
    )
    finish(process)
    two = json.loads((tmp_path / "two" / "summary.json").read_text())
    for figure in ("knn_top1", "knn_top5"):
        assert one[figure] == two[figure]
    assert (tmp_path / "two" / "neighbours.png").exists()


@pytest.mark.slow
def test_presets_are_the_published_ones(tmp_path):
    for preset, expected in (("lightly", (200, 0.1)), ("dino", (20, 0.07))):
        arguments = ("--preset", preset, "--pictures", "false")
        details = evaluate(tmp_path / preset, *arguments)["details"]
        assert (details["k"], details["temperature"]) == expected


@pytest.mark.slow
def test_the_mean_over_crops_stands_beside_the_single_view(tmp_path):
    few = ("--subset", "100", "--pictures", "false", "--k", "5", "--seed", "3")
    plain = evaluate(tmp_path / "plain", *few)
    summary = evaluate(tmp_path / "crops", *few, "--crops", "4")
    assert summary["knn_top1"] == plain["knn_top1"]
    assert summary["details"]["crops"] == 4
    assert "crops_knn_top1" not in plain
    (view,) = {*create_views("emp_ssl_digits", 32)}
    torch.manual_seed(3)
    backbone = create_backbone("basic_cnn").eval()
    found = []
    for split in ("train", "test"):
        data = load_split("digits", None, split)
        data = balanced_subset(data, 100, 3) if split == "train" else data
        renderer = ViewRenderer((view,) * 4, 3)
        views = renderer.render(data.images, np.arange(len(data)), epoch=0)
        with torch.no_grad():
            rows = sum(backbone(images) for images in views) / 4
        found.append((functional.normalize(rows, dim=1), data.labels))
    (train, labels), (test, truth) = found
    similarities, nearest = (test @ train.mT).topk(5)
    votes = torch.zeros(len(test), 10).scatter_add_(1, labels[nearest], (similarities / 0.07).exp())
    expected = 100 * float((votes.argmax(dim=1) == truth).float().mean())
    assert summary["crops_knn_top1"] == pytest.approx(expected, abs=100 / 360 + 1e-4)  # a near tie
    assert "random crops" in (tmp_path / "crops" / "report.md").read_text()


def test_crops_that_are_too_few_are_a_mistake(tmp_path):
    done = call(tmp_path, "--crops", "1")
    assert done.returncode == 2
    assert "crops=1 must be 2 or more" in done.stderr


def test_more_neighbours_than_images_is_a_mistake(tmp_path):
    done = call(tmp_path, "--subset", "100", "--k", "101")
    assert done.returncode == 2
    assert "k=101 is more than the 100 training images" in done.stderr


def test_the_configuration_for_imagenet_is_the_published_one():
    arguments = ["--config", "knn_imagenet", "--backbone_from", "x", "--data_dir", "y"]
    options = parse_options(KnnEvalOptions, arguments)
    assert resolve(options) == (200, 0.1)


@pytest.mark.parametrize("command", ["knn_eval", "linear_eval", "embed"])
def test_an_unknown_backbone_is_refused_before_the_images_are_read(command, tmp_path):
    unreadable = ["--data", "folder", "--data_dir", tmp_path / "nowhere"]
    done = call_script(command, "--backbone_from", "random", "--backbone", "resnet21", *unreadable,
                       "--out", tmp_path / "x.npz")  # fmt: skip
    assert done.returncode == 2
    assert "backbone='resnet21' is not one of" in done.stderr
    assert "nowhere" not in done.stderr
