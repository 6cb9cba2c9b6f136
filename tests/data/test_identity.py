"""Identity of image sets: equal for the same images anywhere, another for any change."""

import hashlib
import shutil
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image

from sslortho.data import ImageArray, ImageFiles
from sslortho.data.datasets import load_split
from sslortho.data.identity import (
    END,
    ENDS_READ,
    SIZES_READ,
    ImageTable,
    describe_difference,
    hash_arrays,
    read_ends,
    read_sizes,
)


@pytest.fixture
def folder(tmp_path):
    """Folder with twelve training images of two classes."""
    numbers = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "set/train" / name).mkdir(parents=True)
        for i in range(6):
            pixels = numbers.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set/train" / name / f"{name}{i}.png")
    return tmp_path / "set"


def table(folder, loader="files") -> ImageTable:
    images = load_split("folder", folder, "train", loader)
    assert images is not None
    return images.table


def test_the_table_holds_names_sizes_and_labels(folder):
    found = table(folder)
    files = sorted((folder / "train").glob("*/*.png"))
    assert found.names is not None
    assert found.sizes is not None
    assert list(found.names) == [f"{path.parent.name}/{path.name}" for path in files]
    assert found.sizes.tolist() == [path.stat().st_size for path in files]
    assert found.labels.tolist() == [0] * 6 + [1] * 6
    names = hashlib.blake2b(b"cat\0dog", digest_size=8).hexdigest()
    assert found.state() == {
        "count": 12, "classes": 2, "class_names": names, "digest": found.digest,
    }  # fmt: skip


def test_a_folder_is_the_same_wherever_it_lies_and_however_it_is_read(
    folder, tmp_path, monkeypatch
):
    first = table(folder).digest
    assert table(folder, "tensor").digest == first
    monkeypatch.chdir(tmp_path)
    assert table("set").digest == table("./set").digest == table("set/../set/").digest == first
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / "copy")
    assert table(moved).digest == first


def remove(train):
    (train / "cat/cat1.png").unlink()
    return "of 12 images 1 removed (cat/cat1.png)"


def add(train):
    shutil.copy(train / "cat/cat1.png", train / "dog/new.png")
    return "of 12 images 1 added (dog/new.png)"


def move(train):
    (train / "cat/cat1.png").rename(train / "dog/cat1.png")
    return "of 12 images 1 moved to another folder (cat/cat1.png, now dog/cat1.png)"


def rewrite(train):
    Image.new("RGB", (16, 16)).save(train / "dog/dog5.png")
    return "of 12 images 1 of another size in bytes (dog/dog5.png)"


def rename_class(train):
    (train / "dog").rename(train / "wolf")
    return "1 class is gone (dog); 1 class is new (wolf); of 12 images 6 moved to another folder"


def empty_class(train):
    for path in list((train / "cat").iterdir())[:5]:
        path.unlink()
    return "of 12 images 5 removed (cat/"


def replace(train):
    pixels = np.random.default_rng(1).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    size = (train / "dog/dog5.png").stat().st_size
    Image.fromarray(pixels).save(train / "dog/dog5.png")
    assert (train / "dog/dog5.png").stat().st_size == size  # noise is stored, not compressed
    return "of 12 images 1 of other content (dog/dog5.png)"


@pytest.mark.parametrize("change", [remove, add, move, rewrite, replace, rename_class, empty_class])
@pytest.mark.parametrize("loader", ["files", "tensor"])
def test_every_change_makes_another_identity_and_is_named(folder, change, loader):
    before = table(folder, loader)
    told = change(folder / "train")
    now = table(folder, loader)
    assert now.digest != before.digest
    assert describe_difference(before, now).startswith(told)
    assert describe_difference(now, now) == ""


def test_long_lists_are_cut(folder):
    before = table(folder)
    for path in (folder / "train/cat").glob("cat[0-4].png"):
        path.unlink()
    told = "of 12 images 5 removed (cat/cat0.png, cat/cat1.png, cat/cat2.png, ...)"
    assert describe_difference(before, table(folder)) == told


def test_two_folders_that_change_their_names_are_other_images(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "train" / name / "0.bmp")
    before = table(tmp_path)
    train = tmp_path / "train"
    for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
        (train / old).rename(train / new)
    told = "of 2 images 2 of other content (a/0.bmp, b/0.bmp)"
    assert describe_difference(before, table(tmp_path)) == told


def test_ends_of_large_files_and_of_many_files(tmp_path):
    path = tmp_path / "a.bmp"
    path.write_bytes(bytes(END + 10))
    paths = [str(path)] * (2 * ENDS_READ)
    first = read_ends(paths)
    assert np.count_nonzero(first) == ENDS_READ
    assert first[[0, -1]].all()
    path.write_bytes(bytes(END + 9) + b"\1")
    assert set(read_ends(paths)).isdisjoint(set(first) - {0})
    assert read_ends([str(tmp_path / "none")]).tolist() == [0]


def test_order_counts(folder):
    found = table(folder)
    turned = found.select(np.arange(12)[::-1])
    assert turned.digest != found.digest
    assert describe_difference(found, turned) == "the 12 images are in another order"


def test_a_part_is_told_from_another_part(folder):
    images = load_split("folder", folder, "train", "files")
    first, second = images.select(torch.arange(6)), images.select(torch.arange(6) + 3)
    assert first.table.digest != second.table.digest
    assert first.table.digest == images.select(torch.arange(6)).table.digest
    assert list(second.table.names) == list(images.table.names)[3:9]


def test_unicode_forms_of_a_name_count_as_equal():
    labels = np.zeros(1, np.int64)
    forms = [unicodedata.normalize(form, "café/élan.png") for form in ("NFC", "NFD")]
    assert forms[0] != forms[1]
    one, other = (ImageTable(labels, ("café",), [form]) for form in forms)
    assert one.digest == other.digest


def test_names_that_are_no_utf8_have_an_identity_and_can_be_told():
    labels = np.zeros(1, np.int64)
    before = ImageTable(labels, (), [b"\xff\xfe.png".decode("utf-8", "surrogateescape")])
    now = ImageTable(labels, (), ["a.png"])
    told = describe_difference(before, now)
    assert "1 removed" in told
    told.encode()  # can be printed


def test_names_do_not_run_into_each_other():
    labels = np.zeros(2, np.int64)
    pairs = [["ab", "c"], ["a", "bc"], ["abc", ""]]
    assert len({ImageTable(labels, (), names).digest for names in pairs}) == 3


def test_images_in_memory_are_told_by_their_pixels():
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4)
    labels = torch.tensor([0, 1])
    first = ImageArray(images, labels, ("a", "b")).table
    changed = images.clone()
    changed[1, 2, 3, 3] += 1
    second = ImageArray(changed, labels, ("a", "b")).table
    relabelled = ImageArray(images, labels.flip(0), ("a", "b")).table
    assert len({first.digest, second.digest, relabelled.digest}) == 3
    assert describe_difference(first, second) == "the pixels of some of the 2 images are others"
    assert describe_difference(first, relabelled) == "2 of 2 images have another label"
    assert describe_difference(first, first.select(np.zeros(1, np.int64))) == (
        "there were 2 images, there are 1"
    )


def test_hashes_tell_shapes_and_types_apart():
    values = np.arange(4, dtype=np.uint8)
    others = [values, values.reshape(2, 2), values.astype(np.int8), values[::-1], values[:2]]
    assert len({hash_arrays(array) for array in others}) == 5
    assert hash_arrays(values[::2]) == hash_arrays(values[::2].copy())
    assert len(hash_arrays(values)) == 2 * hashlib.blake2b(digest_size=16).digest_size


def test_the_digits_are_the_same_however_they_were_enlarged(monkeypatch):
    first, test = (load_split("digits", None, split) for split in ("train", "test"))
    enlarge = torch.nn.functional.interpolate
    monkeypatch.setattr(
        "sslortho.data.datasets.functional.interpolate",
        lambda images, **options: enlarge(images, **options) + 1,  # as if rounded otherwise
    )
    second = load_split("digits", None, "train")
    assert not torch.equal(first.images, second.images)
    assert first.table.digest == second.table.digest != test.table.digest


def test_sizes_of_many_files_are_read_of_some(tmp_path, monkeypatch):
    monkeypatch.setattr("sslortho.data.identity.SIZES_READ", 9)
    monkeypatch.setattr("sslortho.data.identity.SIZES_SAMPLED", 4)
    paths = [str(tmp_path / str(i)) for i in range(10)]
    for i in range(9):
        (tmp_path / str(i)).write_bytes(b"x" * (i + 1))
    sizes = read_sizes(paths)
    assert sizes.tolist() == [1, -1, -1, 4, -1, -1, 7, -1, -1, -1]  # the last file is missing
    assert SIZES_READ == 100_000


def test_files_without_a_root_keep_their_paths(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path)
    assert ImageFiles((str(path),), torch.tensor([-1]), ()).table.names == [str(path)]


def test_names_that_changed_are_printable_and_in_one_line():
    labels, classes = np.zeros(2, np.int64), ("a",)
    before = ImageTable(labels, classes, ["a/x\n.png", "a/\udcff.png"])
    now = ImageTable(labels, classes, ["a/y.png", "a/z.png"])
    told = describe_difference(before, now)
    assert told == r"of 2 images 2 removed (a/x\n.png, a/\xff.png); 2 added (a/y.png, a/z.png)"
