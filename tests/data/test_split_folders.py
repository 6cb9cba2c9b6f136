"""Folders and betons of the splits, and what looks like one and is not used."""

from pathlib import Path

import pytest

from sslortho.data.split_folders import find_test_beton, find_test_folder, find_train_folder

NAMES = ("test", "val")


def make(data_dir: Path, *names: str) -> Path:
    for name in names:
        path = data_dir / name
        if path.suffix:
            path.touch()
        else:
            path.mkdir()
    return data_dir


@pytest.mark.parametrize(
    "name",
    ["validation", "valid", "eval", "dev", "testing", "Test", "VAL", "Validation", "hold-out",
     "test_set", "Test Images", "evaluation"],
)  # fmt: skip
def test_a_folder_that_looks_like_test_images_is_named(tmp_path, name):
    make(tmp_path, "train", name)
    message = rf"holds {name}, which is not used: there is no evaluation .* without test/ or val/"
    with pytest.warns(UserWarning, match=message) as caught:
        assert find_test_folder(tmp_path, NAMES) is None
    assert len(caught) == 1


@pytest.mark.parametrize("used", NAMES)
def test_one_beside_the_folder_that_is_used_is_named_too(tmp_path, used):
    make(tmp_path, "train", used, "valid", "Eval")
    message = rf"holds Eval, valid, which is not used: the test images are those of {used}$"
    with pytest.warns(UserWarning, match=message) as caught:
        assert find_test_folder(tmp_path, NAMES) == tmp_path / used
    assert len(caught) == 1


def test_of_test_and_val_it_is_said_which_is_used(tmp_path):
    make(tmp_path, "train", "val", "test")
    with pytest.warns(UserWarning, match="holds val, which is not used: .* those of test$"):
        assert find_test_folder(tmp_path, NAMES) == tmp_path / "test"


@pytest.mark.parametrize(
    "others", [(), ("models", "runs", "testament", "evaluations.txt", "devices")]
)
@pytest.mark.parametrize("used", NAMES)
def test_a_usual_folder_is_used_without_a_word(tmp_path, used, others):
    make(tmp_path, "train", used, *others)
    assert find_test_folder(tmp_path, NAMES) == tmp_path / used


def test_a_folder_without_test_images_is_nothing_to_warn_of(tmp_path):
    make(tmp_path, "train", "notes", ".val", "__MACOSX")
    assert find_test_folder(tmp_path, NAMES) is None


def test_the_test_folder_of_imagenet_has_no_labels_and_is_passed_over(tmp_path):
    make(tmp_path, "train", "val", "test")
    assert find_test_folder(tmp_path, ("val",)) == tmp_path / "val"


@pytest.mark.parametrize("name", ["validation.beton", "Test.beton", "dev.beton"])
def test_betons_likewise(tmp_path, name):
    make(tmp_path, "train.beton", name, "validation.beton.json")
    with pytest.warns(UserWarning, match=rf"holds {name}, .* without val\.beton or test\.beton"):
        assert find_test_beton(tmp_path, ("val", "test")) is None
    make(tmp_path, "val.beton")
    with pytest.warns(UserWarning, match=rf"holds {name}, .* those of val\.beton"):
        assert find_test_beton(tmp_path, ("val", "test")) == tmp_path / "val.beton"


@pytest.mark.parametrize("name", ["Train", "TRAIN", "training", "train-set"])
def test_a_training_folder_of_another_name_is_to_be_renamed(tmp_path, name):
    make(tmp_path, name, "val")
    with pytest.raises(ValueError, match=rf"no folder train/ .*rename {name} to train"):
        find_train_folder(tmp_path)


def test_class_folders_without_train_are_to_be_moved(tmp_path):
    make(tmp_path, "cats", "dogs", ".git", "@eaDir")
    with pytest.raises(ValueError, match=r"it holds cats, dogs\).* move them into .*/train$"):
        find_train_folder(tmp_path)


def test_images_without_train_are_to_be_moved(tmp_path):
    make(tmp_path, "0.png", "Thumbs.db", ".DS_Store")
    with pytest.raises(ValueError, match=r"it holds 0\.png\).* move them into .*/train$"):
        find_train_folder(tmp_path)
