"""Values of arrays that become pixels: what is found in a large array, and which value is white."""

import re

import numpy as np
import pytest
import torch

from sslortho.data import pixel_values
from sslortho.data.array_images import take_array
from sslortho.data.labels import Labelling
from sslortho.data.loading import load_test_set, load_training_set
from sslortho.data.options import DataOptions
from sslortho.data.pixel_values import find_white


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", range(4))
def test_a_value_that_is_not_finite_is_found_in_every_block(monkeypatch, place, value):
    monkeypatch.setattr(pixel_values, "BLOCK", 2)
    values = np.ones((4, 1, 2), np.float32)
    values[place, 0, 1] = value
    with pytest.raises(ValueError, match="not finite"):
        find_white(values, "x")


@pytest.mark.parametrize("place", range(4))
def test_the_largest_value_is_found_in_every_block(monkeypatch, place):
    monkeypatch.setattr(pixel_values, "BLOCK", 2)
    values = np.ones((4, 1, 2), np.int64)
    values[place] = 16
    assert find_white(values, "x") == 16


def write(path, values):
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        np.savez(path, images=values)
    return str(path)


@pytest.mark.parametrize("kinds", [("npy", "npz"), ("npz", "npy")])
@pytest.mark.parametrize(("kind", "expected"), [(np.float32, 143), (np.int64, 143), (np.uint8, 9)])
def test_a_file_of_test_images_is_scaled_as_the_training_images(tmp_path, kinds, kind, expected):
    """9 of 16 is 143 of 255."""
    train, test = np.zeros((3, 4, 4), kind), np.zeros((2, 4, 4), kind)
    train[0], train[1], test[0], test[1] = 16, 9, 12, 9
    options = DataOptions(
        data=write(tmp_path / f"train.{kinds[0]}", train),
        test_data=write(tmp_path / f"test.{kinds[1]}", test),
    )
    images = load_training_set(options)
    assert (images.open(1) == expected).all()
    assert (load_test_set(options, train=images).open(1) == expected).all()


def test_test_images_of_another_type_have_a_white_of_their_own(tmp_path):
    options = DataOptions(
        data=write(tmp_path / "train.npy", np.full((2, 4, 4), 200, np.float32)),
        test_data=write(tmp_path / "test.npy", np.full((2, 4, 4), 0.2, np.float64)),
    )
    assert (load_test_set(options).open(0) == 51).all()


@pytest.mark.parametrize(
    "one", [np.zeros((8, 8, 3), np.uint8), torch.zeros(3, 8, 8), torch.zeros(1, 8, 8)]
)
def test_one_image_is_not_taken_for_several(one):
    with pytest.raises(ValueError, match=re.escape("seems to be one image")):
        take_array(one, Labelling())
