"""Loaders as options ask for them: sizes that do not do, and workers where they do nothing."""

import re
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from PIL import Image

from sslortho.augment import ViewSpec
from sslortho.augment.views import EvaluationSpec
from sslortho.data.beton import write_beton
from sslortho.data.loading import (
    Shard,
    check_workers,
    create_evaluation_loader,
    create_train_loader,
    load_test_set,
    load_training_set,
)
from sslortho.data.objects import load_object
from sslortho.data.options import DataOptions

PADDED = ViewSpec(crop_size=32, crop_padding=4, blur_p=0.0)
"""Needs images of 24 pixels."""

HERE = Shard(torch.device("cpu"))


def save(folder, sides):
    folder.mkdir(parents=True)
    for i, (width, height) in enumerate(sides):
        Image.new("RGB", (width, height), (i, i, i)).save(folder / f"{i}.png")


def train_loader(options, images):
    return create_train_loader(options, images, (PADDED,), 2, HERE)


SIDES = [(40, 40), (24, 30), (30, 23), (50, 50)]


@pytest.mark.parametrize("kind", ["files", "beton"])
def test_an_image_that_is_too_small_for_a_padded_crop_is_named_before_training(tmp_path, kind):
    save(tmp_path / "x", SIDES)
    options = DataOptions(data=str(tmp_path / "x"), workers=0)
    if kind == "beton":
        write_beton(load_training_set(options), tmp_path / "x.beton")
        options = DataOptions(data=str(tmp_path / "x.beton"), workers=0)
    images = load_training_set(options)
    name = "2.png" if kind == "files" else "2"
    message = rf"{name} is too small: crop_size=32 with crop_padding=4 .* one has 23 x 30"
    with pytest.raises(ValueError, match=message):
        train_loader(options, images)
    whole = images.select(torch.tensor([0, 1, 3]))
    assert len(list(train_loader(options, whole))) == 1


def test_an_image_whose_size_is_not_known_before_is_named_when_it_is_read():
    items = [Image.new("RGB", sides) for sides in SIDES]
    options = DataOptions(data="given", workers=0, labels="none")
    loader = train_loader(options, load_object(items, options, "train", needs_labels=False))
    with pytest.raises(ValueError, match=r"item 2: an image is smaller than crop_size"):
        list(loader)


@pytest.mark.parametrize(
    ("train", "test", "refused"),
    [(100, 8, False), (8, 100, False), (100, 100, False), (8, 8, True)],
)
def test_workers_are_refused_where_all_images_lie_in_memory(tmp_path, train, test, refused):
    save(tmp_path / "train" / "a", [(train, train)] * 2)
    save(tmp_path / "test" / "a", [(test, test)] * 2)
    options = DataOptions(data=str(tmp_path), workers=1)
    images = load_training_set(options)
    tested = load_test_set(options, train=images)
    message = re.escape(f"workers=1 has no effect on data={str(tmp_path)!r}")
    with pytest.raises(ValueError, match=message) if refused else nullcontext():
        check_workers(options, images, tested)
    check_workers(replace(options, workers=None), images, tested)
    spec = EvaluationSpec(crop_size=8, resize=8)
    for part in (images, tested):  # the options are of both
        (batch,) = create_evaluation_loader(options, part, spec, HERE)
        assert batch.views[0].shape == (2, 3, 8, 8)
