"""Rows on the disk that are written in parts, by several writers, and cut anywhere."""

import tracemalloc

import numpy as np
import pytest

from sslortho.evaluate.feature_files import FeatureTable, load_features
from sslortho.evaluate.feature_rows import FeatureRows


def values(count, dim=5):
    return np.random.default_rng(0).standard_normal((count, dim)).astype(np.float32)


def write(rows, features, places, number=0):
    with rows.writer(number) as writer:
        writer.write(np.asarray(places), features[places])


def test_what_is_written_is_there_and_the_rest_is_not(tmp_path):
    features, rows = values(20), FeatureRows(tmp_path, 20, 5, "float32")
    assert not rows.create().any()
    write(rows, features, [3, 4, 5, 9, 10], 0)
    write(rows, features, [17], 1)
    done = rows.create()
    assert np.flatnonzero(done).tolist() == [3, 4, 5, 9, 10, 17]
    np.testing.assert_array_equal(rows.read()[done], features[done])
    assert [path.name for path in tmp_path.glob("journal*")] == ["journal-0.txt"]
    write(rows, features, np.flatnonzero(~done), 2)
    assert rows.create().all()
    np.testing.assert_array_equal(np.load(rows.path), features)


def test_another_shape_or_type_begins_anew(tmp_path):
    features = values(6)
    write_all = FeatureRows(tmp_path, 6, 5, "float32")
    write_all.create()
    write(write_all, features, range(6))
    for other in (
        FeatureRows(tmp_path, 6, 5, "float16"),
        FeatureRows(tmp_path, 7, 5, "float16"),
        FeatureRows(tmp_path, 7, 4, "float16"),
    ):
        assert not other.create().any()


def test_a_journal_cut_at_any_byte_never_counts_a_part_that_is_not_whole(tmp_path):
    features, rows = values(12), FeatureRows(tmp_path, 12, 5, "float32")
    rows.create()
    for first in (0, 4, 8):
        write(rows, features, np.arange(first, first + 4))
    journal = tmp_path / "journal-0.txt"
    whole = journal.read_bytes()
    for length in range(len(whole) + 1):
        journal.write_bytes(whole[:length])
        done = rows.create()
        assert done.sum() == 4 * whole[:length].count(b"\n")
        # what the next writer appends does not join a line that was cut
        write(rows, features, np.flatnonzero(~done))
        assert rows.create().all()


@pytest.mark.parametrize("row", [0, 5, 11])
def test_a_part_whose_bytes_did_not_reach_the_disk_is_written_again(tmp_path, row):
    features, rows = values(12), FeatureRows(tmp_path, 12, 5, "float32")
    rows.create()
    for first in (0, 4, 8):
        write(rows, features, np.arange(first, first + 4))
    damaged = np.load(rows.path, mmap_mode="r+")
    damaged[row, 4] = 0
    damaged.flush()
    lost = 4 * (row // 4)
    assert np.flatnonzero(~rows.create()).tolist() == list(range(lost, lost + 4))


def test_half_precision_and_what_does_not_fit_in_it(tmp_path):
    features, rows = values(4), FeatureRows(tmp_path, 4, 5, "float16")
    rows.create()
    write(rows, features, range(4))
    np.testing.assert_array_equal(rows.read(), features.astype(np.float16))
    with pytest.raises(ValueError, match="up to 70000 do not fit in dtype='float16'"):
        write(rows, np.full((4, 5), 7e4, np.float32), range(4))
    with pytest.raises(ValueError, match=r"shape \(4, 3\) must be \(4, 5\)"):
        write(rows, np.zeros((4, 3), np.float32), range(4))


@pytest.mark.slow
def test_a_million_rows_are_written_and_read_in_a_fraction_of_their_size(tmp_path):
    count, dim, batch = 1_000_000, 96, 500
    rows = FeatureRows(tmp_path, count, dim, "float32")
    part = np.random.default_rng(0).random((batch, dim), dtype=np.float32)
    tracemalloc.start()
    rows.create()
    with rows.writer() as writer:
        for first in range(0, count, batch):
            part[:, 0] = np.arange(first, first + batch)
            writer.write(np.arange(first, first + batch), part)
    assert rows.create().all()
    names = [f"{i}.png" for i in range(count)]
    table = FeatureTable(rows.read(), names, np.full(count, -1), (), {})
    out = tmp_path / "x.npy"
    table.write(out, rows.path)
    found = load_features(out)
    some = [0, 17, 499_999, count - 1]
    assert found.features[some, 0].tolist() == some
    assert [found.names[i] for i in some] == [f"{i}.png" for i in some]
    assert found.shape == (count, dim)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # 384 MB of features; the names are there twice, 60 bytes each
    assert peak < 200e6
