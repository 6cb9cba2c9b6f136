"""The vector operations one by one, against numpy."""

import numpy as np
import pytest
from numba import njit

from sslortho.augment.cpu import simd
from sslortho.augment.cpu.simd import LANES

RNG = np.random.default_rng(0)
LEFT, RIGHT, MORE = (RNG.normal(size=40).astype(np.float32) for _ in range(3))


@njit
def _load_store(source, out, index):
    simd.store(out, index, simd.load(source, index + 3))


@njit
def _load_bytes(source, out, index):
    simd.store(out, 0, simd.load_bytes(source, index))


@njit
def _arithmetic(a, b, c, value, out):
    x, y, z = simd.load(a, 0), simd.load(b, 0), simd.load(c, 0)
    simd.store(out, 0, simd.multiply_add(x, y, z))
    simd.store(out, LANES, simd.add(x, y))
    simd.store(out, 2 * LANES, simd.splat(value))
    simd.store(out, 3 * LANES, simd.zeros())


@njit
def _transpose(source, at, pitch, target, to, target_pitch):
    simd.transpose(source, at, pitch, target, to, target_pitch)


@njit
def _to_levels(source, out):
    simd.store(out, 0, simd.to_levels(simd.load(source, 0)))


def test_sixteen_elements_are_read_and_written_and_no_others():
    out = np.full(40, np.nan, np.float32)
    _load_store(LEFT, out, 7)
    np.testing.assert_array_equal(out[7:23], LEFT[10:26])
    assert np.isnan(out[:7]).all()
    assert np.isnan(out[23:]).all()


@pytest.mark.parametrize("index", [0, 1, 200, 240])
def test_bytes_become_floats_of_the_same_value(index):
    out = np.zeros(LANES, np.float32)
    _load_bytes(np.arange(256, dtype=np.uint8), out, index)
    np.testing.assert_array_equal(out, np.arange(index, index + LANES))


def test_arithmetic_is_numpys_and_the_product_is_not_rounded():
    out = np.zeros(4 * LANES, np.float32)
    _arithmetic(LEFT, RIGHT, MORE, np.float32(2.5), out)
    a, b, c = (x[:LANES].astype(np.float64) for x in (LEFT, RIGHT, MORE))
    np.testing.assert_array_equal(out[:LANES], (a * b + c).astype(np.float32))
    np.testing.assert_array_equal(out[LANES : 2 * LANES], LEFT[:LANES] + RIGHT[:LANES])
    assert set(out[2 * LANES : 3 * LANES]) == {2.5}
    assert not out[3 * LANES :].any()


@pytest.mark.slow
@pytest.mark.parametrize(("pitch", "target_pitch"), [(16, 16), (20, 16), (16, 31), (100, 17)])
def test_a_square_is_turned_and_nothing_else_is_touched(pitch, target_pitch):
    source = RNG.normal(size=5 + 16 * pitch).astype(np.float32)
    target = np.full(3 + 16 * target_pitch, np.nan, np.float32)
    _transpose(source, 5, pitch, target, 3, target_pitch)
    square = source[5:].reshape(16, pitch)[:, :16]
    turned = target[3:].reshape(16, target_pitch)
    np.testing.assert_array_equal(turned[:, :16], square.T)
    assert np.isnan(turned[:, 16:]).all()
    assert np.isnan(target[:3]).all()


def test_levels_are_whole_and_clamped():
    values = [-9, -0.6, -0.5, 0, 0.49, 0.5, 1.5, 2.4,
              99.51, 254.4, 254.5, 255, 255.4, 255.6, 300, 1e9]  # fmt: skip
    out = np.zeros(LANES, np.float32)
    _to_levels(np.array(values, np.float32), out)
    assert out.tolist() == [0, 0, 0, 0, 0, 1, 2, 2, 100, 254, 255, 255, 255, 255, 255, 255]
