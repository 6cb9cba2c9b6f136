"""Objects that Python callers hand over: kinds, labels, values, mistakes, and who reads them."""

import multiprocessing
import os
import pickle
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from datasets import Array3D, ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageColumn
from PIL import Image
from torch.utils.data import ConcatDataset, Subset

from sslortho.data.dataset_items import Items as DatasetItems
from sslortho.data.item_workers import ItemReader
from sslortho.data.objects import load_object, load_pair
from sslortho.data.options import DataOptions

GREY = np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7)


class Items(torch.utils.data.Dataset):
    def __init__(self, make, count=5, **attributes):
        self.make, self.count = make, count
        for name, value in attributes.items():
            setattr(self, name, value)

    def __len__(self):
        return self.count

    def __getitem__(self, place):
        return self.make(place)


def load(data, needs_labels=False, **options):
    return load_object(data, DataOptions(data="given", **options), "train", needs_labels)


def load_threads(data, needs_labels=False, **options):
    return load(data, needs_labels, worker_type="threads", **options)


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (GREY / 255, 1.0),
        (GREY.astype(np.float32) + 45, 255.0),
        (GREY % 17, None),
        ((GREY % 17).astype(np.float64), 16.0),
        ((GREY % 17).astype(np.int32), 16.0),
        (GREY.astype(np.uint16) * 200, 65535.0),
        (GREY.astype(">u2"), 65535.0),
        (GREY.astype(np.int32) * 300, 65535.0),
        (GREY.astype(np.int64) * 1000, 209_000.0),
        (GREY % 2 == 1, 1.0),
        (torch.from_numpy(GREY / 255).bfloat16(), 1.0),
    ],
)
def test_values_are_scaled_by_the_rule(values, white):
    plain = values.float().numpy() if isinstance(values, torch.Tensor) else values
    expected = plain if white is None else plain.astype(np.float64) * 255 / white
    for loader in ("tensor", "files"):
        found = load(values, loader=loader).open(3)[..., 1]
        assert np.abs(found - expected[3].astype(np.float64)).max() < 0.501  # rounded


def test_test_images_are_scaled_as_the_training_images_are(capsys):
    train, test = load_pair(
        np.full((2, 8, 8), 16.0), np.full((2, 8, 8), 8.0), DataOptions(data="given"), False
    )
    assert train.open(0).max() == 255
    assert test.open(0).max() in (127, 128)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((2, 4, 8, 8)), r"shape \(4, 8, 8\), which have 4 channels and not 1 or 3"),
        (np.zeros((2, 8, 8, 2)), "2 channels"),
        (np.zeros((8, 8, 3)), "seems to be one image"),
        (np.zeros((0, 8, 8)), "hold images"),
        (np.zeros((2, 3)), "must be"),
        (np.full((2, 8, 8), -1.0), "from -1 to -1"),
        (np.full((2, 8, 8), np.nan), "not finite"),
        (np.zeros((2, 8, 8), complex), "are no pixels"),
        ((GREY, [0, 1]), "do not fit 5 images"),
        ((GREY, [0.5] * 5), "are no classes"),
        ((GREY, [-2] * 5), "must be 0 or more"),
        ((GREY, [0, 1, 10**12, 0, 1]), "label 1000000000000 is no number of a class"),
        ((GREY, np.array([0, 1, 2**64 - 1, 0, 1], np.uint64)), "label 18446744073709551615 is"),
        (torch.zeros(2, 8, 8).to_sparse(), "give a dense one"),
        (
            torch.zeros(2, 8, 8).to(torch.float8_e4m3fn),
            "float8_e4m3fn and torch.strided has no form",
        ),
        ([], "list of no files"),
        (["no/such.png"], "no/such.png first; remove them from the list, or mend the paths"),
        (3, "data=3 is no images that can be read"),
        (iter([]), "can only be read from its beginning"),
        (torch.utils.data.DataLoader(Items(lambda i: GREY[i])), "give its Dataset"),
    ],
)
def test_mistakes_are_told(data, message):
    with pytest.raises(ValueError, match=message):
        load(data)


@pytest.mark.parametrize(
    ("labels", "numbers", "classes"),
    [
        ([2, 0, 1, 1, -1], [2, 0, 1, 1, -1], ()),
        (torch.tensor([[1], [0], [1], [0], [1]]), [1, 0, 1, 0, 1], ()),
        (["b", "a", "b", "a", "c"], [1, 0, 1, 0, 2], ("a", "b", "c")),
        (np.array([1.0, 0, 1, 0, 1]), [1, 0, 1, 0, 1], ()),
    ],
)
def test_labels_beside_images(labels, numbers, classes):
    for images in (GREY, list(GREY), Items(lambda i: GREY[i])):
        found = load_threads((images, labels))
        assert (found.labels.tolist(), found.classes) == (numbers, classes)
    assert load((GREY, labels), labels="none").labels.tolist() == [-1] * 5


def test_labels_that_a_dataset_has():
    data = Items(lambda i: GREY[i], targets=[0, 1, 0, 1, 1], classes=["cat", "dog"])
    assert load_threads(data).classes == ("cat", "dog")
    part = ConcatDataset([Subset(data, [3, 0]), data])
    assert load_threads(part).labels.tolist() == [1, 0, 0, 1, 0, 1, 1]
    data.target_transform = lambda target: target + 5
    assert load_threads(data).labels.tolist() == [5, 6, 5, 6, 6]


@pytest.mark.parametrize("worker_type", ["threads", "processes"])
def test_labels_in_items_are_read_where_they_are_needed(worker_type, capsys):
    data = Items(lambda i: (GREY[i], torch.tensor(i % 2)))
    options = {"worker_type": worker_type, "workers": 2}
    assert load(data, **options).labels.tolist() == [-1] * 5
    assert "hand over (dataset, labels)" in capsys.readouterr().err
    assert load(data, needs_labels=True, **options).labels.tolist() == [0, 1, 0, 1, 0]
    load(data, labels="none", **options)
    load(Items(lambda i: GREY[i]), **options)
    assert capsys.readouterr().err == ""


def test_integers_that_are_pixels_already_are_not_called_scaled(capsys):
    found = load(GREY.astype(np.int64))
    assert np.array_equal(found.open(3)[..., 0], GREY[3])
    assert "0 to 255" in (told := capsys.readouterr().err)
    assert "scaled" not in told


def test_labels_of_another_kind_do_not_stop_pretraining(capsys):
    data = Items(lambda i: GREY[i], targets=[0.5] * 5)
    assert load_threads(data).labels.tolist() == [-1] * 5
    assert "without labels" in capsys.readouterr().err
    with pytest.raises(ValueError, match="are no classes"):
        load_threads(data, needs_labels=True)


@pytest.mark.parametrize("worker_type", ["threads", "processes"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda i: 1 / (i - 3), "item 3 of the Dataset cannot be read .ZeroDivisionError"),
        (lambda i: np.full((8, 8), 1.5), "from 1.5 to 1.5, and 1 is white"),
        (lambda i: np.zeros((8, 8, 5)), "5 channels"),
        (lambda i: "no/such.png", "No such file"),
        (lambda i: {"a": GREY[i]}, "no image among its keys a; name it by image_column"),
        (lambda i: None, "NoneType, which is no image"),
    ],
)
def test_an_item_that_cannot_be_read_is_named(worker_type, make, message):
    images = load(Items(make), worker_type=worker_type, workers=2)
    with pytest.raises(ValueError, match=message):
        images.open(3)


_kept: list[ItemReader] = []


def _keep(reader):
    _kept.append(reader)


def _read_kept(place):
    return _kept[0].read(place)


class TwoPartsError(Exception):
    """Pickled, it cannot be made again: most exceptions with arguments of their own are so."""

    def __init__(self, one, other):
        super().__init__(f"{one} {other}")


@pytest.mark.parametrize("worker_type", ["threads", "processes"])
def test_an_item_whose_label_cannot_be_read_is_named(worker_type):
    def make(place):
        if place == 3:
            raise TwoPartsError("no", "row")
        return GREY[place], 0

    with pytest.raises(
        ValueError, match=r"label of item 3 .*TwoPartsError: no row.*\(dataset, labels\)"
    ):
        load(Items(make), needs_labels=True, worker_type=worker_type, workers=2)


def test_a_list_with_an_image_whose_file_is_cut_short(tmp_path):
    Image.fromarray(GREY[0]).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:-30])
    with Image.open(tmp_path / "a.png") as whole, Image.open(tmp_path / "b.png") as cut:
        images = load([whole, cut])
        with pytest.raises(ValueError, match=r"item 1 of the list cannot be read .*truncated"):
            images.open(1)


def test_another_process_reads_items_itself():
    """torch's DataLoader forks the process that has the readers; they do not answer to its workers."""
    reader = ItemReader(DatasetItems(list(GREY)), 1)
    reader.read(0)
    with multiprocessing.get_context("fork").Pool(1, _keep, (reader,)) as pool:
        inherited = pool.apply_async(_read_kept, (2,)).get(60)
    np.testing.assert_array_equal(inherited[..., 0], GREY[2])
    sent = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(sent.read(3)[..., 0], GREY[3])
    assert sent.processes == 0


def test_warnings_are_caught_where_processes_start_and_not_for_each_item(monkeypatch):
    """Catching warnings is for the whole process, and other threads read at the same time."""
    caught = []

    class Counted(warnings.catch_warnings):
        def __enter__(self):
            caught.append(self)
            return super().__enter__()

    monkeypatch.setattr(warnings, "catch_warnings", Counted)
    reader = ItemReader(DatasetItems(list(GREY)), 1)
    for place in range(3):
        reader.read(place)
    assert len(caught) == 1


def test_broken_items_are_left_out_where_it_is_asked(tmp_path):
    def make(place):
        if place == 2:
            raise OSError("lost")
        return GREY[place]

    with pytest.warns(UserWarning, match=r"1 of 5 train images .*item 2 .*lost"):
        images = load_threads(Items(make), skip_broken=True)
    assert images.places.tolist() == [0, 1, 3, 4]


def test_items_that_change_now_and_then_are_warned_of():
    seen = set()

    def make(place):  # a flip at random may leave the first item as it is
        again = place in seen
        seen.add(place)
        return GREY[place] if place == 0 or not again else GREY[place][:, ::-1]

    with pytest.warns(UserWarning, match="item 1 of the Dataset is another image each time"):
        load_threads(Items(make))


def test_items_that_change_are_warned_of():
    draws = iter(range(10_000))
    with pytest.warns(UserWarning, match="another image each time"):
        load_threads(Items(lambda i: np.full((8, 8), next(draws) % 256, np.uint8)))


def test_processes_read_the_items_and_this_process_does_not(tmp_path):
    def make(place):
        (tmp_path / f"{os.getpid()}").touch()
        return np.full((8, 8), place, np.uint8)

    images = load(Items(make, count=40), worker_type="processes", workers=3)
    assert [int(images.open(i)[0, 0, 0]) for i in range(40)] == list(range(40))
    readers = {int(path.name) for path in tmp_path.iterdir()}
    assert os.getpid() not in readers
    assert 1 <= len(readers) <= 3


def test_several_items_are_read_at_a_time(tmp_path):
    """No item is finished before another has begun: one reader alone would wait for ever."""

    def make(place):
        (tmp_path / f"{place}").touch()
        deadline = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        return np.full((8, 8), len(list(tmp_path.iterdir())) >= 2, np.uint8)

    for worker_type in ("threads", "processes"):
        for path in tmp_path.iterdir():
            path.unlink()
        images = ItemReader(DatasetItems(Items(make)), 2 if worker_type == "processes" else 0)
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(images.read, range(2)))
        assert all(pixels.all() for pixels in found)


def table(**more):
    features = {"shot": ImageColumn(), "label": ClassLabel(names=["cat", "dog"])}
    rows = {"shot": [Image.fromarray(g) for g in GREY], "label": [0, 1, 0, 1, 1]}
    return Dataset.from_dict({**rows, **more}, features=Features(features))


def test_columns_are_found_by_their_types():
    images = load(table())
    assert images.labels.tolist() == [0, 1, 0, 1, 1]
    assert images.classes == ("cat", "dog")
    np.testing.assert_array_equal(images.open(2)[..., 0], GREY[2])
    changed = table().with_transform(lambda rows: {"nothing": [0] * len(rows["label"])})
    np.testing.assert_array_equal(load(changed).open(2)[..., 0], GREY[2])


def test_columns_are_named_where_several_could_be_meant():
    features = Features({"a": ImageColumn(), "b": ImageColumn(), "n": Value("string")})
    pictures = [Image.fromarray(g) for g in GREY]
    data = Dataset.from_dict({"a": pictures, "b": pictures[::-1], "n": list("xyxyx")}, features)
    with pytest.raises(ValueError, match=r"2 columns of the type Image \(a, b\)"):
        load(data)
    images = load(data, image_column="b", label_column="n")
    np.testing.assert_array_equal(images.open(0)[..., 0], GREY[4])
    assert (images.classes, images.labels.tolist()) == (("x", "y"), [0, 1, 0, 1, 0])
    with pytest.raises(ValueError, match="image_column='c' is not one of a, b, n"):
        load(data, image_column="c")


def test_a_column_of_arrays_is_named():
    features = Features({"pixel_values": Array3D((3, 6, 7), "uint8")})
    rows = [np.stack([g] * 3) for g in GREY]
    images = load(Dataset.from_dict({"pixel_values": rows}, features))
    np.testing.assert_array_equal(images.open(1)[..., 2], GREY[1])


def test_a_dict_of_splits_has_images_to_test_on():
    both = DatasetDict(train=table(), validation=table().select([0, 1]))
    train, test = load_pair(both, None, DataOptions(data="given"), False)
    assert (len(train), len(test)) == (5, 2)
    with pytest.raises(ValueError, match=r"no split 'train' but a; .*data\['a'\]"):
        load_pair(DatasetDict(a=table()), None, DataOptions(data="given"), False)
    with pytest.raises(ValueError, match="streams"):
        load(table().to_iterable_dataset())


def test_names_of_classes_mean_the_same_in_training_and_test_images():
    """Each is numbered by itself: "c" of the test images alone would be "b" of the training images."""
    options = DataOptions(data="given")
    named = (GREY[:3], ["a", "b", "c"])
    _, test = load_pair(named, (GREY[:2], ["a", "c"]), options, True)
    assert test is not None
    assert test.labels.tolist() == [0, 2]
    with pytest.raises(
        ValueError, match=r"test_data does not have the classes .* \(b, c, d in one alone\)"
    ):
        load_pair(named, (GREY[:2], ["a", "d"]), options, True)
    for one, other in ((named, (GREY[:2], [0, 2])), ((GREY[:2], [0, 1]), named)):
        with pytest.raises(
            ValueError, match=r"names of classes.* and those of test_data|numbers, and"
        ):
            load_pair(one, other, options, True)


def test_data_sets_put_together_have_names_of_classes_if_they_agree():
    def part(*classes):
        return Items(lambda i: GREY[i], 2, targets=[0, 1], classes=list(classes))

    assert load(ConcatDataset([part("a", "b"), part("a", "b")])).classes == ("a", "b")
    assert load(ConcatDataset([part("a", "b"), part("b", "a")])).classes == ()
