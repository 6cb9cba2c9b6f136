"""Maps of a training's checkpoints."""

import itertools

import pytest
import torch
from helpers.script_runs import call_command
from PIL import Image
from sklearn.decomposition import PCA
from torch.nn import functional

import sslortho
from sslortho.recipes.feature_strip import _create_untrained, _spread
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.pretrain.resolve import resolve

SMALL = {
    "batch_size": 16,
    "warmup_epochs": 0,
    "threads": 1,
    "trackers": "none",
    "announce": False,
    "linear_probe": False,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three epochs, of four steps each, that keeps every checkpoint."""
    return sslortho.pretrain(
        "digits", "basic_cnn", out=tmp_path_factory.mktemp("runs") / "x", subset=64, epochs=3,
        keep_last=10, evaluate_every=1, projector="16-16", **SMALL,
    )  # fmt: skip


pytestmark = pytest.mark.slow


def distances(points):
    return torch.cdist(points.double(), points.double())


def test_the_last_map_is_that_of_the_run(run):
    strip = sslortho.map_training(run.folder, threads=1, panels=4, points=1000)
    assert list(strip.steps) == [0, 4, 8, 12]
    found = sslortho.extract_features(run.folder, "digits", threads=1)
    features = functional.normalize(found.features, dim=1)
    peer = torch.from_numpy(PCA(2).fit_transform(features.numpy()))
    # turned and mirrored, so distances alone are the same
    torch.testing.assert_close(distances(strip.maps[-1]), distances(peer), atol=1e-4, rtol=1e-4)
    assert torch.equal(strip.labels, found.labels)
    assert list(strip.names) == list(found.names)


def test_the_first_network_is_that_before_training(run):
    options = PretrainOptions.of(
        method="barlow_twins", data="digits", backbone="basic_cnn", crop_size=32, seed=3
    )
    begun = resolve(options).create_task().backbone.state_dict()
    info = sslortho.load_backbone(run.folder).pretraining
    made = _create_untrained(info, 3).state_dict()
    assert begun.keys() == made.keys()
    assert all(torch.equal(begun[name], made[name]) for name in begun)


def test_few_points_and_panels_and_other_images(run, tmp_path):
    images = torch.rand(40, 3, 32, 32)
    strip = sslortho.map_training(
        run.folder, images, panels=2, points=20, method="tsne", out=tmp_path / "s.gif", threads=1
    )
    assert list(strip.steps) == [0, 12]
    assert [places.shape for places in strip.maps] == [(20, 2)] * 2
    assert strip.labels.tolist() == [-1] * 20
    with Image.open(tmp_path / "s.gif") as film:
        assert film.n_frames == 2


def test_the_command(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call_command("feature_strip", run.folder, "--out", "a/strip.png", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "a/strip.png"
    with Image.open("a/strip.png") as picture:
        assert picture.size[0] > 2 * picture.size[1]


def test_mistakes(run, tmp_path):
    with pytest.raises(ValueError, match="is not a run folder"):
        sslortho.map_training(tmp_path)
    with pytest.raises(ValueError, match=r"method='umap' must be pca or tsne"):
        sslortho.map_training(run.folder, method="umap")
    with pytest.raises(ValueError, match=r"panels=1 must be 2 or more"):
        sslortho.map_training(run.folder, panels=1)
    with pytest.raises(ValueError, match=r"out='x\.doc' must end in one of \."):
        sslortho.map_training(run.folder, out="x.doc")
    done = call_command("feature_strip", tmp_path)
    assert done.returncode == 2
    assert "is not a run folder" in done.stderr


def test_options_go_before_those_of_the_run_and_no_draw_is_left(run):
    before = torch.get_rng_state()
    strip = sslortho.map_training(run.folder, panels=2, follow_links=False, threads=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(strip.maps) == 2


def test_a_run_that_is_no_pretraining_is_refused(tmp_path):
    options = {name: value for name, value in SMALL.items() if name != "linear_probe"}
    done = sslortho.supervised(
        "digits", "basic_cnn", out=tmp_path / "z", subset=64, epochs=1, pictures=False, **options
    )
    with pytest.raises(ValueError, match="is no pretraining"):
        sslortho.map_training(done.folder)


def test_a_module_or_images_from_python_are_named(tmp_path):
    images = torch.rand(32, 3, 16, 16)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1))
    done = sslortho.pretrain(
        images, module, out=tmp_path / "y", crop_size=16, epochs=1, projector="8-8", **SMALL
    )
    with pytest.raises(ValueError, match="give data"):
        sslortho.map_training(done.folder)
    with pytest.raises(ValueError, match="trained a module from Python"):
        sslortho.map_training(done.folder, images)


@pytest.mark.parametrize(("count", "most"), [(3, 6), (6, 6), (7, 6), (100, 6), (5, 2)])
def test_panels_are_spread_evenly(count, most):
    found = _spread(list(range(count)), most)
    assert len(found) == min(count, most)
    assert (found[0], found[-1]) == (0, count - 1)
    gaps = [b - a for a, b in itertools.pairwise(found)]
    assert max(gaps) - min(gaps) <= 1


def test_a_transformer_on_views_of_several_sizes_is_mapped_at_the_largest(tmp_path):
    """The network by its name takes 32 pixels alone."""
    run = sslortho.pretrain(
        "digits", "vit_small_32", method="lejepa", crop_size=28, out=tmp_path / "x", subset=32, epochs=1,
        projector="16-16", slices=16, **SMALL,
    )  # fmt: skip
    strip = sslortho.map_training(run.folder, threads=1, panels=2, points=40)
    assert list(strip.steps) == [0, 2]
    sslortho.knn_eval("random", "digits", backbone="vit_small_32", crop_size=28, subset=64, k=3,
                      threads=1, out=tmp_path / "knn")  # fmt: skip
