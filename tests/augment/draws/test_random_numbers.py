"""Philox against its published known answers; uniform numbers by statistics."""

import numpy as np
import pytest
from scipy import stats

from sslortho.augment import ViewRenderer, ViewSpec
from sslortho.augment.draws.random_numbers import check_seed, philox4x32, uniforms

# Random123 1.14, tests/kat_vectors, lines "philox4x32 10"
KNOWN_ANSWERS = [  # counter, key, result
    ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]
SEED, EPOCH, STREAM = 3, 5, 1


def words(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS, ids=["zeros", "ones", "pi"])
def test_philox_gives_the_published_known_answers(counter, key, expected):
    arrays = tuple(np.array([word], dtype=np.uint64) for word in words(counter))
    result = philox4x32(arrays, words(key))
    assert tuple(int(word[0]) for word in result) == words(expected)


def test_philox_of_a_batch_is_philox_of_each_counter():
    counters = [words(counter) for counter, _, _ in KNOWN_ANSWERS]
    arrays = tuple(np.array(column, dtype=np.uint64) for column in zip(*counters, strict=True))
    result = np.stack(philox4x32(arrays, (0, 0)), axis=-1)
    assert tuple(int(word) for word in result[0]) == words(KNOWN_ANSWERS[0][2])
    for row, counter in zip(result, counters, strict=True):
        single = tuple(np.array([word], dtype=np.uint64) for word in counter)
        np.testing.assert_array_equal(row, np.concatenate(philox4x32(single, (0, 0))))


def test_uniforms_are_the_words_of_counter_index_block_stream_and_key_seed_epoch():
    index = 2**33 + 7  # both words of the index are in use
    result = uniforms(SEED, EPOCH, np.array([index]), STREAM, 6)
    blocks = []
    for block in range(2):
        counter = tuple(np.array([word], dtype=np.uint64) for word in (7, 2, block, STREAM))
        blocks += [int(word[0]) for word in philox4x32(counter, (SEED, EPOCH))]
    np.testing.assert_allclose(result[0] * 2**32, np.array(blocks[:6]) + 0.5, rtol=0, atol=1e-6)


def test_uniforms_stay_inside_the_open_interval_at_the_extreme_words(monkeypatch):
    def extreme(counter, key):
        return (np.zeros_like(counter[0]), np.full_like(counter[0], 2**32 - 1)) * 2

    monkeypatch.setattr("sslortho.augment.draws.random_numbers.philox4x32", extreme)
    result = uniforms(0, 0, np.arange(3), 0, 4)
    assert result.min() > 0
    assert result.max() < 1


@pytest.mark.parametrize("count", [1, 3, 4, 5, 23])
def test_shape_is_indices_by_count_and_more_numbers_leave_the_first_as_they_are(count):
    indices = np.array([4, 0, 9])
    result = uniforms(SEED, EPOCH, indices, STREAM, count)
    assert result.shape == (3, count)
    np.testing.assert_array_equal(result, uniforms(SEED, EPOCH, indices, STREAM, 40)[:, :count])


@pytest.mark.parametrize("column", [0, 1, 2, 3, 4, 22])
def test_each_column_is_uniform(column):
    result = uniforms(SEED, EPOCH, np.arange(20_000), STREAM, 23)[:, column]
    assert stats.kstest(result, "uniform").pvalue > 1e-3


@pytest.mark.slow
def test_one_sample_is_uniform_over_epochs():
    result = [uniforms(SEED, epoch, np.array([7]), STREAM, 4)[0] for epoch in range(3000)]
    assert stats.kstest(np.ravel(result), "uniform").pvalue > 1e-3


INDICES = np.arange(20_000)
NEIGHBOURS = {
    "epoch": (SEED, EPOCH + 1, INDICES, STREAM),
    "seed": (SEED + 1, EPOCH, INDICES, STREAM),
    "stream": (SEED, EPOCH, INDICES, STREAM + 1),
    "index": (SEED, EPOCH, INDICES + 1, STREAM),
    "seed and epoch swapped": (EPOCH, SEED, INDICES, STREAM),
}


@pytest.mark.parametrize("other", NEIGHBOURS.values(), ids=NEIGHBOURS.keys())
def test_neighbouring_keys_and_counters_are_uncorrelated(other):
    ours, theirs = uniforms(SEED, EPOCH, INDICES, STREAM, 4), uniforms(*other, 4)
    correlation = np.corrcoef(ours.T, theirs.T)[:4, 4:]
    # the correlation of 20,000 independent pairs has a standard deviation of 1 / sqrt(20,000)
    assert np.abs(correlation).max() < 4 / np.sqrt(len(INDICES))
    assert not (ours == theirs).any(axis=1).any()


def test_columns_of_one_sample_are_uncorrelated():
    result = uniforms(SEED, EPOCH, INDICES, STREAM, 23)
    correlation = np.corrcoef(result.T) - np.eye(23)
    assert np.abs(correlation).max() < 4.5 / np.sqrt(len(INDICES))


def test_serial_pairs_fill_the_square_evenly():
    result = uniforms(SEED, EPOCH, np.arange(40_000), STREAM, 2)
    cells, _, _ = np.histogram2d(*result.T, bins=16, range=[[0, 1], [0, 1]])
    assert stats.chisquare(cells.ravel()).pvalue > 1e-3


def test_a_sample_does_not_depend_on_the_others_in_its_batch():
    whole = uniforms(SEED, EPOCH, np.arange(50), STREAM, 23)
    order = np.random.default_rng(0).permutation(50)
    np.testing.assert_array_equal(uniforms(SEED, EPOCH, order, STREAM, 23), whole[order])
    np.testing.assert_array_equal(uniforms(SEED, EPOCH, order[:7], STREAM, 23), whole[order[:7]])
    np.testing.assert_array_equal(uniforms(SEED, EPOCH, order[:1], STREAM, 23), whole[order[:1]])


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=rf"seed={seed}\b.*2\*\*32"):
        check_seed(seed)
    with pytest.raises(ValueError, match=rf"seed={seed}\b"):
        ViewRenderer((ViewSpec(),), seed=seed)


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_the_ends_of_the_seed_range_work(seed):
    check_seed(seed)
    result = uniforms(seed, 0, INDICES, 0, 1)[:, 0]
    assert stats.kstest(result, "uniform").pvalue > 1e-3
