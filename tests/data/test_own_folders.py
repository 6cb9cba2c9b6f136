"""Folders as people have them, and what is told apart in them."""

import pytest
from PIL import Image

from sslortho.data.loading import load_test_set, load_training_set
from sslortho.data.options import DataOptions
from sslortho.data.own_folders import scan_own_folder


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)


def names(files):
    return None if files is None else [path.removeprefix(files.root)[1:] for path in files.paths]


def test_a_flat_folder_and_albums_in_albums_are_taken_whole(tmp_path, capsys):
    make(tmp_path, "b.png", "a.JPG", "2019/x.webp", "2019/summer/y.gif", ".hidden/z.png")
    files = scan_own_folder(tmp_path, "train")
    assert names(files) == ["a.JPG", "b.png", "2019/x.webp", "2019/summer/y.gif"]
    assert files.labels.tolist() == [-1] * 4
    assert files.classes == ()
    assert scan_own_folder(tmp_path, "test") is None
    assert "--labels folders" in capsys.readouterr().err


def test_folders_are_classes_where_it_is_said(tmp_path):
    make(tmp_path, "dog/1.png", "cat/1.png", "cat/deep/2.png")
    files = scan_own_folder(tmp_path, "train", "folders")
    assert names(files) == ["cat/1.png", "cat/deep/2.png", "dog/1.png"]
    assert files.labels.tolist() == [0, 0, 1]
    assert files.classes == ("cat", "dog")


def test_folders_in_train_are_classes_unless_it_is_said_otherwise(tmp_path):
    make(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/dog/2.png", "val/cat/3.png")
    train, test = (scan_own_folder(tmp_path, split) for split in ("train", "test"))
    assert (names(train), train.labels.tolist()) == (["cat/1.png", "dog/1.png"], [0, 1])
    assert (names(test), test.labels.tolist()) == (["cat/3.png", "dog/2.png"], [0, 1])
    train, test = (scan_own_folder(tmp_path, split, "none") for split in ("train", "test"))
    assert train.labels.tolist() == test.labels.tolist() == [-1, -1]


def test_loose_images_beside_folders_in_train_are_not_lost(tmp_path, capsys):
    make(tmp_path, "train/cat/1.png", "train/2.png", "train/3.png", "test/4.png")
    assert names(scan_own_folder(tmp_path, "train")) == ["2.png", "3.png", "cat/1.png"]
    assert "2 images" in capsys.readouterr().err
    assert names(scan_own_folder(tmp_path, "test")) == ["4.png"]
    with pytest.raises(ValueError, match=r"2 images in .* lie beside .*2\.png.*--labels none"):
        scan_own_folder(tmp_path, "train", "folders")


@pytest.mark.parametrize("place", ["test", "val"])
def test_loose_images_beside_the_classes_of_test_images_are_named(tmp_path, place):
    make(tmp_path, "train/cat/1.png", f"{place}/cat/2.png", f"{place}/3.png", f"{place}/4.png")
    with pytest.warns(UserWarning, match=rf"2 images in .*{place} lie beside .*3\.png first"):
        files = scan_own_folder(tmp_path, "test")
    assert names(files) == ["cat/2.png"]


@pytest.mark.parametrize("name", ["Train", "training_set", "val", "hold-out"])
def test_a_name_that_looks_like_a_part_is_asked_about(tmp_path, name):
    make(tmp_path, f"{name}/1.png", "more/2.png")
    with pytest.raises(ValueError, match=rf"{name}/.*rename .*--labels none"):
        scan_own_folder(tmp_path, "train")
    assert len(scan_own_folder(tmp_path, "train", "none")) == 2


ALBUMS = ("train/a.png", "car/a.png", "boat/a.png")


def test_an_album_called_train_is_one_among_others_where_it_is_said(tmp_path, capsys):
    make(tmp_path, *ALBUMS)
    files = scan_own_folder(tmp_path, "train", "none")
    assert names(files) == ["boat/a.png", "car/a.png", "train/a.png"]
    assert "boat/, car/); to train on it alone, give" in capsys.readouterr().err
    assert scan_own_folder(tmp_path, "test", "none") is None
    files = scan_own_folder(tmp_path, "train", "folders")
    assert (files.classes, files.labels.tolist()) == (("boat", "car", "train"), [0, 1, 2])


@pytest.mark.parametrize(
    ("beside", "labels", "named", "remedy"),
    [
        (ALBUMS, "auto", "boat/, car/", "--labels none"),
        (("train/a.png", "more/deep/1.png", "0.png"), "auto", "more/, 0.png", "--labels none"),
        (("train/a.png", "0.png"), "none", "0.png", "move them into train/"),
        ((*ALBUMS, "val/1.png"), "none", "boat/, car/", "move them into train/"),
        (("train/a/1.png", "more/1.png"), "folders", "more/", "move them into train/"),
        (("train/a/1.png", "more/1.png"), "none", "more/", "move them into train/"),
    ],
)
def test_images_beside_train_that_are_not_used_are_named(tmp_path, beside, labels, named, remedy):
    make(tmp_path, *beside)
    with pytest.warns(UserWarning, match=f"not used: {named}; .*{remedy}") as caught:
        files = scan_own_folder(tmp_path, "train", labels)
    assert len(caught) == 1
    assert files.root.endswith("train")
    scan_own_folder(tmp_path, "test", labels)  # says nothing again


def test_the_pictures_of_runs_beside_train_are_no_albums(tmp_path):
    make(tmp_path, "train/a.png", "runs/first/views.png", ".cache/1.png", "notes/._1.png")
    (tmp_path / "runs" / "first" / "config.yaml").touch()
    for labels in ("none", "auto"):
        assert names(scan_own_folder(tmp_path, "train", labels)) == ["a.png"]


@pytest.mark.parametrize(
    ("made", "labels", "message"),
    [
        ([], "auto", "holds no images"),
        (["1.png"], "folders", "holds no folders that could be classes"),
        (["train/a/1.png", "test/b/1.png"], "auto", "do not have the same classes"),
    ],
)
def test_mistakes_are_told(tmp_path, made, labels, message):
    make(tmp_path, *made)
    with pytest.raises(ValueError, match=message):
        _ = [scan_own_folder(tmp_path, split, labels) for split in ("train", "test")]


def test_another_folder_is_tested_on_with_the_classes_of_the_first(tmp_path):
    make(tmp_path / "a", "cat/1.png", "dog/1.png")
    make(tmp_path / "b", "dog/1.png", "cat/1.png", "cat/2.png")
    options = DataOptions(data=str(tmp_path / "a"), test_data=str(tmp_path / "b"), labels="folders")
    train = load_training_set(options)
    test = load_test_set(options, train=train)
    assert test.labels.tolist() == [0, 0, 1]
    assert test.table.digest == load_test_set(options).table.digest
    make(tmp_path / "b", "emu/1.png")
    with pytest.raises(ValueError, match=r"test_data=.*\(emu in one alone\)"):
        load_test_set(options, train=train)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": "digit"}, r"neither a folder or file nor .*did you mean digits"),
        ({"data": ".", "data_dir": "x"}, "are two folders"),
        ({"data": "digits", "labels": "none"}, "labels='none' has no effect on data='digits'"),
        ({"data": "cifar10", "data_dir": "x", "exif_orientation": True}, "no effect on"),
        ({"data": ".", "worker_type": "threads"}, "worker_type='threads' has no effect"),
    ],
)
def test_options_that_do_not_go_together(given, message):
    with pytest.raises(ValueError, match=message):
        DataOptions(**given)


def test_given_images_are_not_for_a_command_line():
    with pytest.raises(ValueError, match="Python program"):
        load_training_set(DataOptions(data="given"))


@pytest.mark.parametrize("name", ["one.png", "table.csv", "broken.npy", "empty.txt"])
def test_a_file_that_is_no_set_of_images_is_named(tmp_path, name):
    make(tmp_path, "one.png")
    for other in ("table.csv", "broken.npy", "empty.txt"):
        (tmp_path / other).write_text("" if other == "empty.txt" else "not this")
    with pytest.raises(ValueError, match=name):
        load_training_set(DataOptions(data=str(tmp_path / name)))
