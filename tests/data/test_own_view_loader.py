"""Loader of views by callables: the same on any number of workers and ranks, and in any order."""

import functools
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sslortho.augment.own_views import OwnView, OwnViewRenderer, read_own_view
from sslortho.data import ImageArray, ImageFiles
from sslortho.data.batches import EpochOrder
from sslortho.data.beton.stored_jpeg import BrokenSampleError
from sslortho.data.dataset_items import BrokenItemError
from sslortho.data.decoding import BrokenImageError, UnknownRangeError
from sslortho.data.own_view_loader import OwnViewLoader

COUNT = 12


def draws(image):
    """Pixels of the image's corner, and a number of each global generator."""
    numbers = [random.random(), np.random.rand(), float(torch.rand(1))]  # noqa: NPY002
    view = torch.tensor(numbers).view(3, 1, 1).expand(3, 4, 4).clone()
    view[:, 0, 0] = torch.tensor(image.getpixel((0, 0))).float()
    return view


def images():
    pixels = torch.arange(COUNT, dtype=torch.uint8).view(COUNT, 1, 1, 1).expand(COUNT, 3, 8, 8)
    return ImageArray(pixels.clone(), torch.arange(COUNT), ())


def load(workers=0, rank=0, ranks=1, epoch=1, start=0, seed=3):
    view = OwnView(draws, 4)
    loader = OwnViewLoader(
        images(), OwnViewRenderer((view, view), seed), EpochOrder(COUNT, 4, seed, rank, ranks),
        torch.device("cpu"), workers,
    )  # fmt: skip
    loader.set_epoch(epoch, start)
    return list(loader)


def by_sample(batches):
    """Views of each sample, by its label."""
    return {
        int(label): [view[i] for view in batch.views]
        for batch in batches
        for i, label in enumerate(batch.labels)
    }


def assert_same(first, second):
    assert first.keys() == second.keys()
    for label, views in first.items():
        for one, other in zip(views, second[label], strict=True):
            assert torch.equal(one, other)


def test_every_image_has_its_own_views():
    found = by_sample(load())
    assert len(found) == COUNT
    seen = set()
    for label, views in found.items():
        for view in views:
            assert view[:, 0, 0].tolist() == [label] * 3
            seen.add(tuple(view[:, 1, 1].tolist()))
    assert len(seen) == 2 * COUNT
    assert len({number for numbers in seen for number in numbers}) == 6 * COUNT


def test_draws_depend_on_seed_and_epoch():
    first = by_sample(load())
    for other in (load(epoch=2), load(seed=4)):
        views = by_sample(other)
        assert not any(torch.equal(first[i][0], views[i][0]) for i in first if i in views)


@pytest.mark.parametrize("settings", [{"workers": 2}, {"workers": 1}])
def test_workers_change_nothing(settings):
    assert_same(by_sample(load()), by_sample(load(**settings)))


def test_two_ranks_see_what_one_sees():
    parts = [by_sample(load(rank=rank, ranks=2)) for rank in (0, 1)]
    assert not parts[0].keys() & parts[1].keys()
    assert_same(by_sample(load()), parts[0] | parts[1])


def test_a_start_in_the_middle_goes_on():
    whole, rest = load(), load(start=2)
    assert len(rest) == 1
    assert torch.equal(whole[2].views[0], rest[0].views[0])


def test_the_generators_of_the_process_are_left_alone():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    load()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()  # noqa: NPY002


def test_a_view_that_changes_its_size_is_an_error():
    sizes = iter([4] + [4] * 5 + [5] * 50)

    def changing(image):
        size = next(sizes)
        return torch.zeros(3, size, size)

    view = read_own_view(changing)
    loader = OwnViewLoader(
        images(), OwnViewRenderer((view, view)), EpochOrder(COUNT, 4), torch.device("cpu"), 0
    )
    with pytest.raises(ValueError, match=r"gives 5 pixels for image \d+, and 4 for others"):
        list(loader)


class Shift:
    """A callable without a text of its own."""

    mean = std = 0.5

    def __call__(self, image):
        return torch.zeros(3, 4, 4)


def shift(image, by=0):
    return torch.zeros(3, 4, 4)


@pytest.mark.parametrize("make", [Shift, lambda: functools.partial(shift, by=1)])
def test_the_name_of_a_callable_has_no_place_in_memory(make):
    """A run that resumes in another process compares the names."""
    one, other = make(), make()
    assert one is not other
    assert read_own_view(one).name == read_own_view(other).name
    assert "0x" not in read_own_view(one).name
    assert read_own_view(one).mean == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_without_a_traceback_from_a_worker(tmp_path, workers):
    paths = [str(tmp_path / f"{i}.png") for i in range(2)]
    Image.new("RGB", (8, 8)).save(paths[0])
    Path(paths[1]).write_bytes(b"no image")
    loader = OwnViewLoader(
        ImageFiles(tuple(paths), torch.zeros(2, dtype=torch.int64), ()),
        OwnViewRenderer((OwnView(draws, 4),), 0), EpochOrder(2, 2, 0), torch.device("cpu"), workers,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"1\.png cannot be read .*--skip_broken$") as told:
        list(loader)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "error",
    [
        BrokenImageError("a.png", "cut"),
        UnknownRangeError("a.png", "floats"),
        BrokenItemError("item 3", "cut"),
        BrokenSampleError(Path("x.beton"), 3, "cut"),
    ],
)
def test_errors_about_images_come_out_of_another_process_as_they_are(error):
    found = pickle.loads(pickle.dumps(error))
    assert (type(found), str(found)) == (type(error), str(error))
    assert (found.path, found.reason) == (error.path, error.reason)
