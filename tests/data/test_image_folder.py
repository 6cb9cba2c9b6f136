import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sslortho.data import ImageArray, ImageFiles, broken_images, load_split
from sslortho.data.decoding import read_image


def pixels(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(path: Path, seed: int = 0, height: int = 8, width: int = 8) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, height, width)).save(path)
    return str(path)


def write_classes(root: Path, split: str = "train", names: str = "ab", count: int = 2) -> list[str]:
    return [
        write(root / split / name / f"{i}.png", seed=10 * label + i)
        for label, name in enumerate(names)
        for i in range(count)
    ]


# folders: what is found


def test_a_folder_gives_sorted_classes_and_the_exact_pixels(tmp_path):
    for label, name in enumerate(["ant", "Bee", "cat"]):
        for i in range(3):
            write(tmp_path / "train" / name / f"{i}.png", seed=10 * label + i, height=6, width=9)
    data = load_split("folder", tmp_path, "train")
    assert isinstance(data, ImageArray)
    assert data.classes == ("Bee", "ant", "cat")
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert data.labels.dtype == torch.int64
    for image, seed in zip(data.images, [10, 11, 12, 0, 1, 2, 20, 21, 22], strict=True):
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), pixels(seed, 6, 9))


@pytest.mark.parametrize("name", ["test", "val"])
def test_test_and_val_folders_are_the_test_split(tmp_path, name):
    write_classes(tmp_path)
    write(tmp_path / name / "a" / "x.png", seed=77)
    write(tmp_path / name / "b" / "y.png", seed=78)
    data = load_split("folder", str(tmp_path), "test")
    assert data.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(data.images[1].permute(1, 2, 0).numpy(), pixels(78))


def test_a_folder_test_goes_before_val(tmp_path):
    write_classes(tmp_path)
    write_classes(tmp_path, "val", count=3)
    paths = write_classes(tmp_path, "test", count=1)
    with pytest.warns(UserWarning, match=r"holds val, which is not used: .* those of test$"):
        assert load_split("folder", tmp_path, "test", "files").paths == tuple(paths)


def test_a_folder_without_test_has_no_test_split(tmp_path):
    write_classes(tmp_path)
    assert load_split("folder", tmp_path, "test") is None


def test_images_in_nested_folders_belong_to_their_class(tmp_path):
    deep = write(tmp_path / "train" / "a" / "2020" / "may" / "x.png")
    flat = write(tmp_path / "train" / "a" / "y.png")
    other = write(tmp_path / "train" / "b" / "2020" / "x.png")
    data = load_split("folder", tmp_path, "train", "files")
    assert dict(zip(data.paths, data.labels.tolist(), strict=True)) == {deep: 0, flat: 0, other: 1}


def test_images_without_class_folders_have_label_minus_one(tmp_path):
    paths = [write(tmp_path / "train" / f"{i}.png", seed=i) for i in range(3)]
    write(tmp_path / "test" / "x.png")
    data = load_split("folder", tmp_path, "train", "files")
    assert data.paths == tuple(paths)
    assert data.labels.tolist() == [-1, -1, -1]
    assert data.classes == ()
    assert load_split("folder", tmp_path, "test").labels.tolist() == [-1]


@pytest.mark.parametrize("link", ["train", "train/a", "train/a/deep", "train/a/x.png"])
def test_links_out_of_the_data_set_are_followed_when_told(tmp_path, link):
    image = Path(write_classes(tmp_path / "elsewhere", names="a")[0])
    target = {"train": image.parent.parent, "train/a/x.png": image}.get(link, image.parent)
    if link in ("train/a/deep", "train/a/x.png"):
        write_classes(tmp_path / "data", names="a")
    (tmp_path / "data" / link).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "data" / link).symlink_to(target)
    with pytest.raises(ValueError, match=f"{link} is a link that leads out of .*--follow_links"):
        load_split("folder", tmp_path / "data", "train")
    found = load_split("folder", tmp_path / "data", "train", follow_links=True)
    assert len(found) == {"train/a/deep": 4, "train/a/x.png": 3}.get(link, 2)


def test_links_within_the_data_set_are_followed(tmp_path):
    paths = write_classes(tmp_path, names="a")
    (tmp_path / "train" / "b").symlink_to(tmp_path / "train" / "a")
    (tmp_path / "train" / "a" / "again.png").symlink_to(paths[0])
    assert load_split("folder", tmp_path, "train").labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_links_in_a_circle_and_to_nowhere_are_named(tmp_path):
    write_classes(tmp_path, names="a")
    circle = tmp_path / "train" / "a" / "round"
    circle.symlink_to(tmp_path / "train" / "a")
    with pytest.raises(ValueError, match="round is a link to a folder that it lies in"):
        load_split("folder", tmp_path, "train")
    circle.unlink()
    (tmp_path / "train" / "a" / "gone.png").symlink_to(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match=r"gone\.png is a link to .*nothing\.png, which does not"):
        load_split("folder", tmp_path, "train")


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_classes(tmp_path / "pictures")
    assert len(load_split("folder", "~/pictures", "train")) == 4


def test_hidden_files_and_folders_are_left_out_without_a_word(tmp_path):
    paths = write_classes(tmp_path)
    write(tmp_path / "train" / "a" / ".thumbnail.png")
    write(tmp_path / "train" / "a" / ".cache" / "x.png")
    write(tmp_path / "train" / ".trash" / "x.png")
    write(tmp_path / "train" / "._a.png")  # macOS writes such beside what it copies
    (tmp_path / "train" / "b" / ".DS_Store").touch()
    write_classes(tmp_path, "test")
    data = load_split("folder", tmp_path, "train", "files")
    assert data.paths == tuple(paths)
    assert data.classes == ("a", "b")
    assert load_split("folder", tmp_path, "test").classes == ("a", "b")


def test_files_without_an_image_suffix_are_left_out_with_a_warning(tmp_path):
    paths = write_classes(tmp_path)
    (tmp_path / "train" / "a" / "notes.txt").write_text("x")
    (tmp_path / "train" / "a" / "sizes.csv").write_text("x")
    with pytest.warns(UserWarning, match=r"2 files in .*train/a .*notes\.txt"):
        data = load_split("folder", tmp_path, "train", "files")
    assert data.paths == tuple(paths)


def test_images_beside_the_class_folders_are_not_dropped_in_silence(tmp_path):
    write_classes(tmp_path)
    write(tmp_path / "train" / "loose.png")
    with pytest.warns(UserWarning, match=r"loose\.png"):
        assert len(load_split("folder", tmp_path, "train")) == 4


def test_a_class_folder_whose_name_ends_like_an_image_is_no_loose_image(tmp_path):
    write(tmp_path / "train" / "scan.tif" / "x.png")
    assert load_split("folder", tmp_path, "train").classes == ("scan.tif",)


@pytest.mark.parametrize(
    "suffix", ["PNG", "Jpg", "JPEG", "bmp", "ppm", "tif", "TIFF", "webp", "gif"]
)
def test_suffixes_of_images_in_any_case(tmp_path, suffix):
    path = write(tmp_path / "train" / "a" / f"x.{suffix}")
    assert load_split("folder", tmp_path, "train", "files").paths == (path,)


# folders: memory or files


@pytest.mark.parametrize(
    ("sizes", "loader", "kind"),
    [
        ([(8, 8), (8, 8)], "auto", ImageArray),
        ([(96, 60), (96, 60)], "auto", ImageArray),
        ([(97, 60), (97, 60)], "auto", ImageFiles),
        ([(60, 97), (60, 97)], "auto", ImageFiles),
        ([(8, 8), (8, 9)], "auto", ImageFiles),
        ([(8, 9), (9, 8)], "auto", ImageFiles),
        ([(8, 8), (8, 8)], "files", ImageFiles),
        ([(97, 60), (97, 60)], "tensor", ImageArray),
    ],
)
def test_small_images_of_one_size_are_read_into_memory(tmp_path, sizes, loader, kind):
    for i, (height, width) in enumerate(sizes):
        write(tmp_path / "train" / "ab"[i] / "x.png", i, height, width)
    data = load_split("folder", tmp_path, "train", loader)
    assert type(data) is kind
    assert data.labels.tolist() == [0, 1]
    assert data.classes == ("a", "b")
    if kind is ImageArray:
        assert data.images.shape[2:] == sizes[0]
        np.testing.assert_array_equal(data.images[1].permute(1, 2, 0), pixels(1, *sizes[1]))
    else:
        assert [Path(path).parent.name for path in data.paths] == ["a", "b"]


def test_many_images_land_in_their_own_places(tmp_path):
    """More than one chunk of the thread pool."""
    for i in range(300):
        image = Image.new("RGB", (2, 2), (i % 256, i // 256, 7))
        (tmp_path / "train").mkdir(exist_ok=True)
        image.save(tmp_path / "train" / f"{i:03}.png")
    data = load_split("folder", tmp_path, "train")
    numbers = data.images[:, 0, 1, 1].long() + 256 * data.images[:, 1, 1, 1].long()
    assert numbers.tolist() == list(range(300))


def test_a_huge_folder_stays_on_disk_and_only_the_first_of_each_class_is_checked(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(broken_images, "MOST_CHECKED", 3)
    paths = write_classes(tmp_path)
    Path(paths[1]).write_bytes(b"")
    assert load_split("folder", tmp_path, "train").paths == tuple(paths)
    Path(paths[2]).write_bytes(b"")
    with pytest.raises(ValueError, match=r"train/b/0\.png"):
        load_split("folder", tmp_path, "train")


# folders: errors


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match=r"data_dir='.*nowhere' is no folder"):
        load_split("folder", tmp_path / "nowhere", "train")


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "data.zip").touch()
    with pytest.raises(ValueError, match=r"data_dir='.*data\.zip' is no folder"):
        load_split("folder", tmp_path / "data.zip", "train")


@pytest.mark.parametrize(("names", "holds"), [(["cats", "dogs"], "cats, dogs"), ([], "nothing")])
def test_a_folder_without_train_says_what_it_holds(tmp_path, names, holds):
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=rf"no folder train/ \(it holds {holds}\)"):
        load_split("folder", tmp_path, "train")


def test_a_test_split_without_train_is_refused(tmp_path):
    write_classes(tmp_path, "test")
    with pytest.raises(ValueError, match="has no folder train/"):
        load_split("folder", tmp_path, "test")


def test_train_without_images(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=r"train holds no images .*\.jpg"):
        load_split("folder", tmp_path, "train")


def test_an_empty_class(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "train" / "zebra" / "empty").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"class folder .*train/zebra holds no images"):
        load_split("folder", tmp_path, "train")


@pytest.mark.parametrize("names", ["a", "abc", "ax"])
def test_test_classes_other_than_the_training_ones(tmp_path, names):
    write_classes(tmp_path)
    write_classes(tmp_path, "test", names)
    odd = {"a": "b", "abc": "c", "ax": "b"}[names]
    with pytest.raises(ValueError, match=rf"same classes \({odd} is in one alone\)"):
        load_split("folder", tmp_path, "test")


def test_unlabelled_test_images_beside_labelled_training_ones(tmp_path):
    write_classes(tmp_path)
    write(tmp_path / "test" / "x.png")
    with pytest.raises(ValueError, match="same classes"):
        load_split("folder", tmp_path, "test")


def test_labelled_test_images_beside_unlabelled_training_ones_keep_their_labels(tmp_path):
    write(tmp_path / "train" / "x.png")
    write_classes(tmp_path, "test", count=1)
    data = load_split("folder", tmp_path, "test")
    assert data.labels.tolist() == [0, 1]
    assert data.classes == ("a", "b")


@pytest.mark.parametrize("loader", ["auto", "files", "tensor"])
@pytest.mark.parametrize("content", [b"", b"not an image at all", b"\x89PNG\r\n\x1a\n\x00\x00"])
def test_a_broken_image_is_named_before_training(tmp_path, loader, content):
    paths = write_classes(tmp_path)
    Path(paths[3]).write_bytes(content)
    with pytest.raises(ValueError, match=r"train/b/1\.png cannot be read.*remove or replace"):
        load_split("folder", tmp_path, "train", loader)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tif", "gif"])
def test_an_image_cut_short_is_named_when_it_is_decoded(tmp_path, suffix):
    path = Path(write(tmp_path / f"x.{suffix}", height=40, width=40))
    whole = path.read_bytes()
    assert read_image(str(path)).size == (40, 40)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"x\.{suffix} cannot be read"):
        read_image(str(path))


def test_images_of_different_sizes_cannot_be_forced_into_memory(tmp_path):
    write(tmp_path / "train" / "a" / "0.png", height=8, width=8)
    write(tmp_path / "train" / "a" / "1.png", height=7, width=9)
    message = r"1\.png is 9 x 7 pixels and .*0\.png 8 x 8; .*--loader files"
    with pytest.raises(ValueError, match=message):
        load_split("folder", tmp_path, "train", "tensor")


# names


SYSTEMS = [
    "Thumbs.db", "desktop.ini", "Desktop.ini", "__MACOSX", ".ipynb_checkpoints", "@eaDir",
    "$RECYCLE.BIN", "System Volume Information", "lost+found", ".Trash-1000", ".git", "#recycle",
    "._a", ".DS_Store", ".AppleDouble", ".thumbnails", ".Spotlight-V100", ".fseventsd",
]  # fmt: skip


@pytest.mark.parametrize("name", SYSTEMS)
def test_what_systems_add_is_no_class_and_no_image(tmp_path, name):
    paths = [*write_classes(tmp_path), write(tmp_path / "train" / "b" / "deep" / "x.png")]
    write_classes(tmp_path, "test")
    for place in ("train", "test", "train/a", "train/b/deep"):
        write(tmp_path / place / name / "a.png")
        write(tmp_path / place / name / "deep" / "b.png")
    data = load_split("folder", tmp_path, "train", "files")
    assert data.paths == tuple(paths)
    assert data.classes == load_split("folder", tmp_path, "test").classes == ("a", "b")


@pytest.mark.parametrize("name", ["._0.png", ".0.png", "Thumbs.db", "desktop.ini", "ehthumbs.db"])
def test_files_that_systems_add_are_left_out_without_a_word(tmp_path, name):
    paths = write_classes(tmp_path)
    for place in ("", "train", "train/a"):
        (tmp_path / place / name).write_bytes(b"\0\5\x16\7")
    assert load_split("folder", tmp_path, "train", "files").paths == tuple(paths)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_class_that_holds_a_systems_files_alone_is_empty(tmp_path, name):
    write_classes(tmp_path)
    write(tmp_path / "train" / "zebra" / name / "x.png")
    (tmp_path / "train" / "zebra" / "._x.png").touch()
    with pytest.raises(ValueError, match=r"class folder .*zebra holds no images; fill or remove"):
        load_split("folder", tmp_path, "train")


COMPOSED, SPLIT = "\u00e9t\u00e9", "e\u0301te\u0301"  # one word in Unicode's forms NFC and NFD


@pytest.mark.parametrize(("train", "test"), [(COMPOSED, SPLIT), (SPLIT, COMPOSED), (SPLIT, SPLIT)])
def test_classes_are_matched_whatever_their_unicode_form(tmp_path, train, test):
    """The two forms have other places among the names: before f, and behind z."""
    for name, seed in (("f", 0), (train, 1), ("z", 2)):
        write(tmp_path / "train" / name / "0.png", seed)
    for name, seed in (("f", 0), (test, 1), ("z", 2)):
        write(tmp_path / "test" / name / "0.png", seed)
    ours, theirs = (load_split("folder", tmp_path, split) for split in ("train", "test"))
    assert ours.classes == theirs.classes == tuple(sorted(["f", train, "z"]))
    assert torch.equal(ours.images, theirs.images)
    assert torch.equal(ours.labels, theirs.labels)


@pytest.mark.parametrize("split", ["train", "test"])
def test_two_folders_that_look_the_same_are_named(tmp_path, split):
    write_classes(tmp_path)
    for name in (COMPOSED, SPLIT):
        write(tmp_path / "train" / COMPOSED / "0.png")
        write(tmp_path / split / name / "0.png")
    with pytest.raises(ValueError, match=r"Unicode form alone \('e\\u0301te\\u0301' and '\\xe9t"):
        load_split("folder", tmp_path, split)


def test_names_that_differ_in_case_are_two_classes(tmp_path):
    write_classes(tmp_path, names="aA")
    assert load_split("folder", tmp_path, "train").classes == ("A", "a")


@pytest.mark.parametrize(
    "name", ["two\nlines", "a\ttab", os.fsdecode(b"caf\xe9"), "\x1b[31m", "\u2028"]
)
def test_odd_names_of_classes_are_one_line_of_text(tmp_path, name):
    for split in ("train", "test"):
        write(tmp_path / split / name / f"{name}.png")
        write(tmp_path / split / "a" / "0.png")
    data = load_split("folder", tmp_path, "test")
    (shown,) = set(data.classes) - {"a"}
    assert len(shown.splitlines()) == 1
    shown.encode()
    assert len(data) == 2
    shutil.rmtree(tmp_path / "test" / name)
    with pytest.raises(ValueError, match="same classes") as caught:
        load_split("folder", tmp_path, "test")
    assert len(str(caught.value).splitlines()) == 1
