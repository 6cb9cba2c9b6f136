"""Neighbours, duplicates and maps of a file of features, as commands and as functions."""

import csv
import importlib
import shutil

import numpy as np
import pytest
import torch
from helpers.script_runs import call_command
from PIL import Image
from sklearn.neighbors import NearestNeighbors

import sslortho
from sslortho.evaluate.feature_files import FeatureTable
from sslortho.models import BackboneInfo, write_backbone
from sslortho.models.cifar_resnet import BasicCNN
from sslortho.recipes.embedded import picture_spec_of, spec_of

INFO = BackboneInfo(
    backbone="basic_cnn", stem="stock", crop_size=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)
)
COUNT = 24


def picture(number):
    """Smooth picture of its own."""
    coarse = np.random.default_rng(number).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((40, 40), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of pictures with copies of some, weights, and the features."""
    place = tmp_path_factory.mktemp("place")
    (place / "photos").mkdir()
    for i in range(COUNT):
        picture(i).save(place / "photos" / f"{i:02}.png")
    picture(3).save(place / "photos" / "03 same.bmp")
    picture(7).save(place / "photos" / "07 near.jpg", quality=90)
    torch.manual_seed(0)
    write_backbone(BasicCNN(), place / "w.safetensors", INFO)
    done = sslortho.extract_features(
        place / "w.safetensors", place / "photos", out=place / "x.npz", threads=1
    )
    assert len(done) == COUNT + 2
    return place


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """The same in a folder that a test may change."""
    monkeypatch.chdir(tmp_path)
    return made


# Neighbours


def test_neighbours_are_those_of_scikit_learn(place):
    features = sslortho.load_features(place / "x.npz")
    found = sslortho.find_neighbours(features, list(range(len(features))), k=5)
    peer = NearestNeighbors(n_neighbors=6, metric="cosine").fit(features.features.numpy())
    distances, rows = peer.kneighbors()  # without the point itself
    np.testing.assert_allclose(found.similarities, 1 - distances[:, :5], atol=1e-5)
    apart = np.abs(np.diff(distances, axis=1)).min(axis=1) > 1e-5  # others may tie
    assert apart.sum() > 10
    assert found.indices[apart].tolist() == rows[apart, :5].tolist()
    assert found.names[0] == [features.names[i] for i in found.indices[0]]


def test_a_query_is_a_row_a_name_or_an_image(place):
    by_row = sslortho.find_neighbours(place / "x.npz", 7, k=3)
    features = sslortho.load_features(place / "x.npz")
    name = features.names[7]
    by_name = sslortho.find_neighbours(place / "x.npz", name, k=3)
    assert torch.equal(by_row.indices, by_name.indices)
    assert by_name.queries == [name]
    file = place / "photos" / name
    for image in (str(file), file, Image.open(file), np.asarray(Image.open(file))):
        found = sslortho.find_neighbours(features, [image], k=4)
        assert found.indices[0, 0] == 7  # itself first
        assert found.similarities[0, 0] == pytest.approx(1, abs=1e-4)
        assert found.indices[0, 1:].tolist() == by_row.indices[0].tolist()


def test_more_neighbours_than_images(place):
    found = sslortho.find_neighbours(place / "x.npz", 0, k=100)
    assert sorted(found.indices[0].tolist()) == list(range(1, COUNT + 2))


def test_an_image_may_have_all_rows_as_neighbours(place):
    found = sslortho.find_neighbours(place / "x.npz", [place / "photos" / "07.png"], k=100)
    assert sorted(found.indices[0].tolist()) == list(range(COUNT + 2))


def test_options_of_neighbours_without_effect(place):
    with pytest.raises(ValueError, match="backbone_from='gone' has no effect on queries that are"):
        sslortho.find_neighbours(place / "x.npz", [0, 1], backbone_from="gone")
    done = call_command("neighbours", place / "x.npz", "3", "--data", "gone")
    assert done.returncode == 2
    assert "data='gone' has no effect without out" in done.stderr


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("99", "query='99' must be a row from 0 to 25"),
        ("00.pgn", r"no name in the features .did you mean 00.png\?"),
        ([], "queries holds none"),
        (3.5, "image=float must be a path"),
    ],
)
def test_queries_that_are_none(place, query, message):
    with pytest.raises(ValueError, match=message):
        sslortho.find_neighbours(place / "x.npz", query)


def test_the_command_prints_them_and_draws_them(place, tmp_path):
    file = place / "photos" / "07.png"
    done = call_command("neighbours", place / "x.npz", file, "3", "--k", "2", "--out", "n/x.png")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == str(file)
    assert lines[1].endswith("07.png")
    assert lines[2].endswith("07 near.jpg")
    assert [line.startswith("  ") for line in lines[:6]] == [False, True, True] * 2
    assert lines[-1] == "n/x.png"
    with Image.open(tmp_path / "n" / "x.png") as drawn:
        assert drawn.size[0] > 300


def test_pictures_show_the_same_part_larger(place):
    features = sslortho.load_features(place / "x.npz")
    seen, shown = spec_of(features), picture_spec_of(features)
    assert shown.crop_size >= 96 > seen.crop_size
    assert shown.crop_size / shown.resize == seen.crop_size / seen.resize


def test_other_weights_and_images_than_then_are_refused(place, tmp_path):
    write_backbone(BasicCNN(), tmp_path / "other.safetensors", INFO)
    image = place / "photos" / "00.png"
    with pytest.raises(ValueError, match="has other weights now"):
        sslortho.find_neighbours(place / "x.npz", [image], backbone_from="other.safetensors")
    shutil.copytree(place / "photos", "moved")
    done = call_command("neighbours", place / "x.npz", "0", "--out", "a.png", "--data", "moved")
    assert done.returncode == 0, done.stderr
    (tmp_path / "moved" / "00.png").unlink()
    done = call_command("neighbours", place / "x.npz", "1", "--out", "b.png", "--data", "moved")
    assert done.returncode == 2
    assert "the images are others now" in done.stderr


# Duplicates


def kinds(found):
    return [[(member.name, member.kind) for member in group] for group in found.groups]


EXACT = [("03 same.bmp", "first"), ("03.png", "exact")]
NEAR = [("07 near.jpg", "first"), ("07.png", "near")]


def test_exact_ones_of_any_images(place):
    for source in (
        place / "photos",
        str(place / "photos"),
        sorted((place / "photos").iterdir()),
    ):
        found = sslortho.find_duplicates(source)
        names = [[(name.rpartition("/")[2], kind) for name, kind in g] for g in kinds(found)]
        assert names == [EXACT]
        assert (found.images, found.threshold, found.surplus) == (COUNT + 2, None, 1)
    pixels = np.stack([np.asarray(picture(i)) for i in (0, 1, 0)])
    assert kinds(sslortho.find_duplicates(pixels)) == [[("0", "first"), ("2", "exact")]]


@pytest.mark.parametrize("test", ["test", "val"])
@pytest.mark.parametrize("side", [40, 120])  # read into memory, and file by file
def test_exact_ones_between_training_and_test_images(tmp_path, test, side):
    """Whatever the classes: the test images have one that the training images do not have."""
    files = {"train/a/0.png": 0, "train/b/1.png": 1, f"{test}/a/2.png": 2, f"{test}/c/x.png": 1}
    for name, number in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).resize((side, side)).save(path)
    found = sslortho.find_duplicates(tmp_path)
    assert kinds(found) == [[("train/b/1.png", "first"), (f"{test}/c/x.png", "exact")]]
    assert found.images == len(files)
    assert [member.row for member in found.groups[0]] == [1, 3]


def test_near_ones_by_a_threshold(place):
    found = sslortho.find_duplicates(place / "x.npz", threshold=0.999)
    assert kinds(found) == [EXACT, NEAR]
    assert found.groups[0][1].similarity == pytest.approx(1, abs=1e-5)
    assert 0.999 <= found.groups[1][1].similarity < 1
    alike = sslortho.find_duplicates(place / "x.npz", threshold=-0.9)
    assert len(alike.groups) == 1
    assert alike.surplus == COUNT + 1


def test_the_threshold_is_measured_on_copies(place):
    found = sslortho.find_duplicates(place / "x.npz")
    assert 0 < found.threshold < 1
    groups = [{name for name, _ in group} for group in kinds(found)]
    assert any({"07 near.jpg", "07.png"} <= group for group in groups)
    features = sslortho.load_features(place / "x.npz")
    model = sslortho.load_backbone(place / "w.safetensors")
    # by hand: cosines of JPEGs of the pictures and the pictures themselves
    from sslortho.evaluate.duplicates import mild_changes

    cosines = []
    for i, name in enumerate(features.names):
        pixels = np.array(Image.open(place / "photos" / name).convert("RGB"))
        copies = model.embed(mild_changes(pixels))
        cosines += torch.nn.functional.cosine_similarity(
            copies, features.features[i][None]
        ).tolist()
    assert found.threshold == pytest.approx(np.quantile(cosines, 0.05), abs=1e-4)


def test_the_command_prints_and_writes_the_groups(place):
    arguments = ["duplicates", place / "x.npz", "--threshold", "0.999", "--out", "d/x.csv"]
    done = call_command(*arguments)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == (
        "26 images, 2 groups of duplicates: 1 exact, which could go if one of each stayed; 1 near, to be "
        "looked at first"
    )
    assert lines[1] == "near-duplicates: cosine 0.9990 and more"
    with open("d/x.csv", newline="") as file:  # noqa: PTH123
        rows = list(csv.DictReader(file))
    assert [(row["group"], row["name"], row["kind"]) for row in rows] == [
        (str(group), *member) for group, members in ((1, EXACT), (2, NEAR)) for member in members
    ]
    done = call_command("duplicates", place / "x.npz", "--threshold", "-0.9")
    assert "the features do not tell copies from images" in done.stdout


def test_features_whose_images_or_backbone_are_gone(place):
    features = np.eye(4, dtype=np.float32)[[0, 1, 2, 1]]
    table = FeatureTable(features, list("abcd"), np.full(4, -1), (), {"options": {"data": "given",
        "backbone_from": "given"}})  # fmt: skip
    table.write(place / "given.npz")
    with pytest.raises(ValueError, match=r"a Python program handed over.*or give threshold"):
        sslortho.find_duplicates(place / "given.npz")
    done = call_command("duplicates", place / "given.npz", "--threshold", "0.9")
    assert done.returncode == 0
    assert "exact duplicates are not sought" in done.stderr
    assert "b" in done.stdout
    with pytest.raises(ValueError, match=r"the threshold cannot be measured.*does not exist"):
        sslortho.find_duplicates(place / "x.npz", backbone_from="nowhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "threshold=1.5 must be a cosine"),
        ({"threshold": 0.9}, "threshold=0.9 has no effect on images alone"),
        ({"data": "x"}, "data='x' has no effect"),
    ],
)
def test_options_of_duplicates(place, options, message):
    with pytest.raises(ValueError, match=r"backbone_from='gone' has no effect on threshold=0\.9"):
        sslortho.find_duplicates(place / "x.npz", threshold=0.9, backbone_from="gone")
    with pytest.raises(ValueError, match=message):
        sslortho.find_duplicates(place / "photos", **options)


@pytest.mark.parametrize(
    ("command", "arguments", "work"),
    [
        ("feature_map", ["x.npz"], "sslortho.evaluate.feature_files.load_features"),
        ("neighbours", ["x.npz", "0"], "sslortho.evaluate.feature_files.load_features"),
        ("plot_runs", ["x"], "sslortho.recipes.plot_runs.read_curves"),
    ],
)
def test_a_name_that_is_no_picture_is_refused_before_the_work(
    tmp_path, monkeypatch, capsys, command, arguments, work
):
    def begin(*arguments, **options):
        raise AssertionError("the work has begun")

    monkeypatch.setattr(work, begin)
    module = importlib.import_module(f"sslortho.recipes.{command}")
    out = str(tmp_path / "new" / "map.xyz")
    with pytest.raises(SystemExit) as ended:
        module.main([*arguments, "--out", out], command)
    assert ended.value.code == 2
    assert f"out={out!r} must end in one of" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# Maps


def test_a_map_is_a_picture_and_its_coordinates(place, tmp_path):
    done = call_command("feature_map", place / "x.npz", "--out", "m/map.png")
    assert done.returncode == 0, done.stderr
    with open("m/map.csv", newline="") as file:  # noqa: PTH123
        rows = list(csv.DictReader(file))
    features = sslortho.load_features(place / "x.npz")
    assert [row["name"] for row in rows] == list(features.names)
    centred = features.features.double() - features.features.double().mean(dim=0)
    # distances in the plane are those along numpy's first two singular directions
    _, values, directions = np.linalg.svd(centred.numpy(), full_matrices=False)
    expected = centred.numpy() @ directions[:2].T
    found = np.array([(float(row["x"]), float(row["y"])) for row in rows])
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-5)
    places, indices, axes = sslortho.map_features(features)
    np.testing.assert_allclose(places.numpy(), found, atol=1e-12)
    assert indices.tolist() == list(range(len(features)))
    share = values[0] ** 2 / (values**2).sum()
    assert f"component 1: {100 * share:.1f} % of the variance" == axes[0]
    with Image.open(tmp_path / "m" / "map.png") as drawn:
        assert drawn.size[0] > 300


def test_a_map_by_tsne_of_some(place):
    done = call_command(
        "feature_map", place / "x.npz", "--method", "tsne", "--points", "10", "--out", "t.png"
    )
    assert done.returncode == 0, done.stderr
    with open("t.csv", newline="") as file:  # noqa: PTH123
        assert len(list(csv.DictReader(file))) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "mds"], "method='mds' must be pca, tsne or umap"),
        (["--points", "2"], "points=2 must be 3 or more"),
        (["--out", "x.bmp"], "must end in one of"),
    ],
)
def test_options_of_maps(place, arguments, message):
    done = call_command("feature_map", place / "x.npz", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("name", ["neighbours", "feature_map"])
def test_files_that_hold_no_features(place, name):
    np.savez("x.npz", images=np.zeros((3, 8, 8, 3)))
    for file, message in (("x.npz", "cannot be read as features"), ("no.npz", "does not exist")):
        done = call_command(name, file, *(["0"] if name == "neighbours" else []))
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
