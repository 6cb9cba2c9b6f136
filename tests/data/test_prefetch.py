import math
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from sslortho.data import prefetch
from sslortho.data.prefetch import (
    AT_ONCE,
    PART,
    Buffers,
    Job,
    available_cores,
    map_in_pieces,
    run_ahead,
)

WAIT = 30.0  # seconds until a test gives up on a thread


def squares(numbers: list[int], size: int = 10, log: list | None = None):
    """Jobs that fill an array with a number's square, sample by sample."""

    def job(number: int) -> Job:
        out = np.zeros(size, np.int64)

        def fill(first: int, last: int) -> None:
            assert 0 <= first < last <= size
            out[first:last] += number**2

        return Job(size, fill, out.tolist)

    try:
        for number in numbers:
            yield job(number)
    finally:
        if log is not None:
            log.append("closed")


@pytest.mark.parametrize("threads", [0, 1, 4])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 11])
@pytest.mark.parametrize("size", [1, PART, PART + 1, 33])
def test_results_come_in_order_and_every_sample_is_made_once(threads, count, size):
    log = []
    results = list(run_ahead(squares(list(range(count)), size, log), threads))
    assert results == [[n**2] * size for n in range(count)]
    assert log == ["closed"]


def test_a_slow_sample_does_not_hold_up_the_next_batch():
    second_began = threading.Event()

    def jobs():
        # with a barrier between batches this would wait for ever
        yield Job(1, lambda first, last: waited.append(second_began.wait(WAIT)), lambda: "first")
        yield Job(1, lambda first, last: second_began.set(), lambda: "second")

    waited = []
    assert list(run_ahead(jobs(), threads=2)) == ["first", "second"]
    assert waited == [True]


def test_batches_are_made_ahead_of_need_but_not_without_end():
    started = []

    def jobs():
        for number in range(20):
            started.append(number)
            yield Job(1, lambda first, last: None, lambda: None)

    iterator = run_ahead(jobs(), threads=1, ahead=3)
    next(iterator)
    deadline = time.monotonic() + WAIT
    while len(started) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert len(started) == 4  # the one in use, and three
    iterator.close()


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_is_raised_where_its_batch_was_due(threads):
    def fail(first: int, last: int) -> None:
        if first == 0:
            raise ValueError("sample 0 is broken")

    def jobs():
        yield from squares([1, 2])
        yield Job(9, fail, lambda: None)
        yield from squares([3])

    iterator = run_ahead(jobs(), threads)
    assert [next(iterator)[0], next(iterator)[0]] == [1, 4]
    with pytest.raises(ValueError, match="sample 0 is broken"):
        next(iterator)
    assert list(iterator) == []


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_in_making_jobs_is_raised_too(threads):
    def jobs():
        yield from squares([1])
        raise OSError("the disk is gone")

    iterator = run_ahead(jobs(), threads)
    next(iterator)
    with pytest.raises(OSError, match="the disk is gone"):
        next(iterator)


@pytest.mark.parametrize("threads", [0, 3])
def test_an_iteration_that_is_broken_off_ends_its_threads_and_closes_its_jobs(threads):
    before, log = set(threading.enumerate()), []
    iterator = run_ahead(squares(list(range(50)), 40, log), threads)
    next(iterator)
    iterator.close()
    assert set(threading.enumerate()) <= before
    assert log == ["closed"]


def test_memory_in_use_is_never_handed_out_again():
    buffers = Buffers(pinned=False)
    first = buffers.take((4, 6), torch.float32)
    second = buffers.take((4, 6), torch.float32)
    assert first.data_ptr() != second.data_ptr()
    address = first.data_ptr()
    part = first.view(2, 12)[1].permute(0)  # any tensor over it counts
    del first
    assert buffers.take((4, 6), torch.float32).data_ptr() != address
    del part
    assert buffers.take((4, 6), torch.float32).data_ptr() == address


def test_memory_has_the_shape_and_type_that_is_asked_for():
    buffers = Buffers(pinned=False)
    for shape, dtype in [((2, 3), torch.float32), ((5,), torch.uint8), ((2, 3), torch.float32),
                         ((2, 3), torch.int32)]:  # fmt: skip
        taken = buffers.take(shape, dtype)
        assert (taken.shape, taken.dtype) == (shape, dtype)
        del taken
    assert len(buffers.kept) == 3


class CountingPool(ThreadPoolExecutor):
    submitted = 0

    def submit(self, *arguments, **options):
        self.submitted += 1
        return super().submit(*arguments, **options)


@pytest.mark.parametrize("piece", [1, 16])
def test_millions_of_items_are_handed_over_in_parts(piece):
    with CountingPool(2) as pool:
        results = map_in_pieces(pool, lambda i: i**2, range(10_000), piece)
        assert next(results) == 0
        assert pool.submitted == math.ceil(AT_ONCE / piece)
        assert list(results) == [i**2 for i in range(1, 10_000)]


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 16),
        ({"cpu.max": "max 100000"}, 16),
        ({"cpu.max": "800000 100000"}, 8),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "5000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
    ],
)
def test_a_containers_limit_of_its_cores_counts(files, cores, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(prefetch, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    assert available_cores() == cores
