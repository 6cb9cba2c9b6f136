"""Photometric parameters, against the distributions that torchvision documents; and their table."""

from dataclasses import fields, replace
from itertools import permutations

import numpy as np
import pytest
from helpers import photometry
from scipy import stats

from sslortho.augment import ViewSpec, create_views
from sslortho.augment.draws.photometric import (
    BLUR_COLUMN,
    BRIGHTNESS,
    CONTRAST,
    FACTOR_COLUMN,
    GRAYSCALE_COLUMN,
    HUE,
    JITTER_COLUMN,
    ORDER_COLUMN,
    PARAMETERS,
    SATURATION,
    SIGMA_COLUMN,
    SOLARISE_COLUMN,
    PhotometricDraw,
    pack_photometric,
)

COUNT = 20_000
P_VALUE = 1e-3
FIRST, SECOND = create_views("barlow_twins")
EVERYTHING = replace(FIRST, jitter_p=0.7, grayscale_p=0.5, blur_p=0.5, solarise_p=0.5)


def draw(spec: ViewSpec, count: int = COUNT, seed: int = 0) -> PhotometricDraw:
    return photometry.draw(spec, count, seed)


FREQUENCIES = {
    "first jitter": (FIRST, "jitter", 0.8),
    "first grayscale": (FIRST, "grayscale", 0.2),
    "first blur": (FIRST, "blur", 1.0),
    "first solarise": (FIRST, "solarise", 0.0),
    "second jitter": (SECOND, "jitter", 0.8),
    "second grayscale": (SECOND, "grayscale", 0.2),
    "second blur": (SECOND, "blur", 0.1),
    "second solarise": (SECOND, "solarise", 0.2),
    "small blur": (create_views("barlow_twins_small")[0], "blur", 0.0),
    "small second solarise": (create_views("barlow_twins_small")[1], "solarise", 0.2),
}


@pytest.mark.parametrize(("spec", "name", "p"), FREQUENCIES.values(), ids=FREQUENCIES.keys())
def test_an_operation_has_its_frequency(spec, name, p):
    count = int(getattr(draw(spec), name).sum())
    if p in (0.0, 1.0):
        assert count == p * COUNT
    else:
        assert stats.binomtest(count, COUNT, p).pvalue > P_VALUE


RANGES = {
    "brightness": (0.6, 1.4),
    "contrast": (0.6, 1.4),
    "saturation": (0.8, 1.2),
    "hue": (-0.1, 0.1),
    "sigma": (0.1, 2.0),
}


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("spec", [FIRST, SECOND], ids=["first", "second"])
def test_a_parameter_is_uniform_over_its_range(spec, name):
    low, high = RANGES[name]
    values = getattr(draw(spec), name)
    assert stats.kstest(values, "uniform", args=(low, high - low)).pvalue > P_VALUE


def test_strengths_move_the_ranges():
    parameters = draw(ViewSpec(brightness=1.0, contrast=0.1, saturation=0.0, hue=0.5))
    for name, low, high in [("brightness", 0, 2), ("contrast", 0.9, 1.1), ("hue", -0.5, 0.5)]:
        values = getattr(parameters, name)
        assert stats.kstest(values, "uniform", args=(low, high - low)).pvalue > P_VALUE
    assert (parameters.saturation == 1).all()


def test_all_24_orders_of_the_jitter_are_equally_likely():
    orders, counts = np.unique(draw(FIRST).order, axis=0, return_counts=True)
    assert {tuple(order) for order in orders} == set(permutations(range(4)))
    assert stats.chisquare(counts).pvalue > P_VALUE


def test_parameters_are_independent_of_each_other():
    parameters = draw(EVERYTHING)
    names = ("jitter", "grayscale", "blur", "solarise", *RANGES)
    table = np.stack([getattr(parameters, name) for name in names]).astype(float)
    table = np.concatenate([table, parameters.order.T[:3]])
    correlation = np.corrcoef(table)
    # places in one permutation exclude each other: their correlation is -1/3 by counting
    correlation[len(names) :, len(names) :] = np.eye(3)
    assert np.abs(correlation - np.eye(len(table))).max() < 4.5 / np.sqrt(COUNT)


def test_the_pair_shares_no_parameter_but_by_its_uniform_numbers():
    """Equal numbers in, equal jitter out: blur and solarisation alone set the two views apart."""
    first, second = draw(FIRST), draw(SECOND)
    for name in ("jitter", "brightness", "contrast", "saturation", "hue", "order", "sigma"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert (first.blur & ~second.blur).any()
    assert (second.solarise & ~first.solarise).any()


def test_the_table_is_the_fields_of_the_draw_in_their_order():
    parameters = draw(EVERYTHING, 50)
    columns = np.column_stack([getattr(parameters, field.name) for field in fields(parameters)])
    result = pack_photometric(parameters)
    assert result.dtype == np.float32
    assert result.shape == (50, PARAMETERS)
    np.testing.assert_array_equal(result, columns.astype(np.float32))


COLUMNS = {
    "jitter": JITTER_COLUMN,
    "brightness": FACTOR_COLUMN + BRIGHTNESS,
    "contrast": FACTOR_COLUMN + CONTRAST,
    "saturation": FACTOR_COLUMN + SATURATION,
    "hue": FACTOR_COLUMN + HUE,
    "order": slice(ORDER_COLUMN, ORDER_COLUMN + 4),
    "grayscale": GRAYSCALE_COLUMN,
    "blur": BLUR_COLUMN,
    "sigma": SIGMA_COLUMN,
    "solarise": SOLARISE_COLUMN,
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_named_column_holds_its_field(name):
    parameters = draw(EVERYTHING, 50)
    expected = getattr(parameters, name).astype(np.float32)
    np.testing.assert_array_equal(pack_photometric(parameters)[:, COLUMNS[name]], expected)
