"""Parts of an image set: balanced, named by a list, held out."""

import pytest
import torch
from PIL import Image

from sslortho.data import (
    BetonImages,
    ImageArray,
    ImageFiles,
    balanced_subset,
    hold_out,
    named_subset,
)
from sslortho.data.beton import read_beton, write_beton
from sslortho.data.beton.manifest import names_path
from sslortho.data.subsets import _by_class, choose_some

# balanced subsets


def labelled(counts: list[int]) -> ImageArray:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    return ImageArray(images, labels, tuple(str(i) for i in range(len(counts))))


def test_classes_are_found_as_by_a_look_at_each():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 9, (500,), generator=generator)
    order = torch.randperm(500, generator=generator)
    expected = [order[labels[order] == label] for label in labels.unique()]
    found = _by_class(labels, order)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.timeout(60)  # a pass over all labels for each class takes minutes
def test_a_subset_of_many_classes():
    data = labelled([2] * 100_000)
    assert torch.equal(balanced_subset(data, 100_000, seed=0).labels, torch.arange(100_000))


@pytest.mark.parametrize("size", [1, 3, 4, 25, 30, 40])
def test_a_subset_is_balanced_and_keeps_images_with_their_labels(size):
    data = labelled([10, 20, 50, 10])
    subset = balanced_subset(data, size, seed=0)
    assert len(subset) == size
    counts = torch.bincount(subset.labels, minlength=4)
    assert counts.max() - counts.min() <= 1
    chosen = subset.images[:, 0, 0, 0].long()
    assert (chosen.diff() > 0).all()  # each once, in the order of the data
    assert torch.equal(subset.labels, data.labels[chosen])
    assert subset.classes == data.classes


def test_a_subset_is_a_function_of_its_seed():
    data = labelled([30, 30])
    first, again, other = (balanced_subset(data, 20, seed).images for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_sample_can_be_chosen():
    data = labelled([6, 6])
    chosen = [balanced_subset(data, 2, seed).images[:, 0, 0, 0] for seed in range(100)]
    assert torch.cat(chosen).unique().tolist() == list(range(12))


def test_a_subset_of_files_keeps_paths_with_their_labels():
    paths = tuple(f"{label}/{i}.jpg" for label in range(3) for i in range(5))
    data = ImageFiles(paths, torch.arange(3).repeat_interleave(5), ("0", "1", "2"))
    subset = balanced_subset(data, 7, seed=3)
    assert isinstance(subset, ImageFiles)
    assert len(set(subset.paths)) == 7
    assert [int(path[0]) for path in subset.paths] == subset.labels.tolist()
    assert sorted(torch.bincount(subset.labels).tolist()) == [2, 2, 3]


def test_a_subset_of_unlabelled_images_is_any_of_them():
    data = ImageFiles(tuple("abcdef"), torch.full((6,), -1), ())
    subset = balanced_subset(data, 4, seed=0)
    assert len(set(subset.paths)) == 4
    assert subset.labels.tolist() == [-1] * 4


@pytest.mark.parametrize("size", [-1, 0, 91])
def test_a_subset_size_out_of_range(size):
    with pytest.raises(ValueError, match=rf"subset={size} must be from 1 to the 90 images"):
        balanced_subset(labelled([10, 20, 50, 10]), size, seed=0)


def test_a_subset_that_a_class_is_too_small_for():
    with pytest.raises(ValueError, match=r"subset=44 wants 11 images of each class.*has 10"):
        balanced_subset(labelled([10, 20, 50, 10]), 44, seed=0)


# named by a list


@pytest.fixture
def files(tmp_path):
    """Three images of each of two classes, named as ImageNet's."""
    paths = []
    for label in ("n01", "n02"):
        (tmp_path / label).mkdir()
        for i in range(3):
            path = tmp_path / label / f"{label}_{i}.png"
            Image.new("RGB", (8, 8), (i, 0, 0)).save(path)
            paths.append(str(path))
    return ImageFiles(tuple(paths), torch.tensor([0, 0, 0, 1, 1, 1]), ("n01", "n02"))


def write_list(tmp_path, text):
    path = tmp_path / "list.txt"
    path.write_text(text)
    return path


def test_the_named_files_are_taken_whatever_their_order_and_folders(files, tmp_path):
    path = write_list(tmp_path, "n02_2.png\n\n  elsewhere/n01_1.png \r\nn02_0.png")
    chosen = named_subset(files, path)
    assert [p.rsplit("/", 1)[1] for p in chosen.paths] == ["n01_1.png", "n02_0.png", "n02_2.png"]
    assert chosen.labels.tolist() == [0, 1, 1]
    assert chosen.classes == ("n01", "n02")


def beton_of(files, tmp_path, **options):
    path = tmp_path / "train.beton"
    write_beton(files, path, **options)
    table = read_beton(path)
    places = torch.arange(len(table)).numpy()
    labels = torch.tensor(table.labels.astype("int64"))
    return BetonImages(path, places, 0 * places, labels, files.classes)


def test_a_beton_knows_the_names_of_its_files_even_where_some_were_broken(files, tmp_path):
    (tmp_path / "n01" / "n01_1.png").write_text("broken")
    data = beton_of(files, tmp_path, skip_broken=True, overwrite=True)
    chosen = named_subset(data, write_list(tmp_path, "n02_0.png\nn01_2.png"))
    assert chosen.places.tolist() == [1, 2]  # without n01_1
    assert chosen.labels.tolist() == [0, 1]
    part = data.select(torch.tensor([4, 2]))
    assert named_subset(part, write_list(tmp_path, "n02_2.png")).places.tolist() == [4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "n01_0.png\nn09_1.png\nn09_0.png",
            "2 files that the .* do not have, n09_0.png, n09_1.png",
        ),
        ("\n", "names no files"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(files, tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        named_subset(files, write_list(tmp_path, text))


def test_names_that_are_not_unique_are_refused(files, tmp_path):
    twice = ImageFiles(("a/x.png", "b/x.png"), torch.tensor([0, 1]), ("a", "b"))
    with pytest.raises(ValueError, match=r"names 1 files, but 2 training images"):
        named_subset(twice, write_list(tmp_path, "x.png"))


def test_data_without_names_is_refused(files, tmp_path):
    path = write_list(tmp_path, "x.png")
    array = ImageArray(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))
    with pytest.raises(ValueError, match="needs images with file names"):
        named_subset(array, path)
    data = beton_of(files, tmp_path)
    names_path(data.path).write_text("n01_0.png\n")
    with pytest.raises(ValueError, match=r"names 1 images, .* holds 6"):
        named_subset(data, path)
    names_path(data.path).unlink()
    with pytest.raises(ValueError, match=r"no train.beton.names beside it"):
        named_subset(data, path)
    with pytest.raises(ValueError, match="cannot be read"):
        named_subset(files, tmp_path / "nowhere.txt")


# held out


COUNTS = {0: 50, 1: 30, 2: 21}


@pytest.fixture(scope="module")
def numbered():
    """Every image is its own index, so that images can be followed."""
    labels = torch.cat([torch.full((count,), label) for label, count in COUNTS.items()])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))]
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    return ImageArray(images, labels, ("a", "b", "c"))


def numbers(part):
    return part.images[:, 0, 0, 0].tolist()


def test_every_image_is_on_one_side_in_order_with_its_label(numbered):
    train, held_out = hold_out(numbered, 0.1, seed=0)
    assert sorted(numbers(train) + numbers(held_out)) == list(range(101))
    for part in (train, held_out):
        assert numbers(part) == sorted(numbers(part))
        assert torch.equal(part.labels, numbered.labels[torch.tensor(numbers(part))])


def test_the_share_is_of_every_class(numbered):
    _, held_out = hold_out(numbered, 0.1, seed=0)
    assert torch.bincount(held_out.labels).tolist() == [5, 3, 2]


def test_the_choice_is_of_the_seed_alone_and_not_that_of_a_subset(numbered):
    assert numbers(hold_out(numbered, 0.3, 5)[1]) == numbers(hold_out(numbered, 0.3, 5)[1])
    assert numbers(hold_out(numbered, 0.3, 5)[1]) != numbers(hold_out(numbered, 0.3, 6)[1])
    images = torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    balanced = ImageArray(images, torch.arange(2).repeat_interleave(20), ("a", "b"))
    for seed in range(5):
        held_out, subset = hold_out(balanced, 0.25, seed)[1], balanced_subset(balanced, 10, seed)
        assert len(held_out) == len(subset)
        assert not torch.equal(held_out.images, subset.images)


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_an_empty_side_is_refused(numbered, share):
    with pytest.raises(ValueError, match=rf"validation={share} holds out (0|101) of 101"):
        hold_out(numbered, share, 0)


def test_a_list_in_the_other_unicode_form_names_the_same_files(tmp_path):
    composed, split = "\u00e9.png", "e\u0301.png"
    for name, text in ((composed, split), (split, composed)):
        data = ImageFiles((f"/x/{name}", "/x/other.png"), torch.tensor([0, 0]), ("x",))
        assert named_subset(data, write_list(tmp_path, text)).paths == (f"/x/{name}",)


def test_some_images_are_chosen_by_seed_in_their_order():
    data = labelled([30])
    chosen = choose_some(data, 10, seed=1).images[:, 0, 0, 0].long()
    assert len(chosen) == 10
    assert (chosen.diff() > 0).all()
    assert not torch.equal(chosen, choose_some(data, 10, seed=2).images[:, 0, 0, 0].long())
    assert choose_some(data, 30, seed=1) is data
