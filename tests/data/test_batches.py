from itertools import chain

import numpy as np
import pytest
from scipy import stats

from sslortho.data import EpochOrder
from sslortho.data.batches import rank_share

SIZE, BATCH, SEED = 103, 12, 5


def epoch_of(order: EpochOrder, epoch: int, start_step: int = 0) -> list[list[int]]:
    return [indices.tolist() for indices in order.steps(epoch, start_step)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("epoch", [0, 7])
def test_ranks_share_out_the_same_global_batches(world_size, epoch):
    ranks = [
        epoch_of(EpochOrder(SIZE, BATCH, SEED, rank, world_size), epoch)
        for rank in range(world_size)
    ]
    single = epoch_of(EpochOrder(SIZE, BATCH, SEED), epoch)
    for parts, whole in zip(zip(*ranks, strict=True), single, strict=True):
        assert {len(part) for part in parts} == {BATCH // world_size}
        assert list(chain(*parts)) == whole


@pytest.mark.parametrize(("size", "batch"), [(103, 12), (24, 12), (12, 12), (13, 12), (5, 1)])
def test_an_epoch_has_whole_batches_without_duplicates(size, batch):
    order = EpochOrder(size, batch, SEED)
    steps = epoch_of(order, 0)
    assert len(order) == len(steps) == size // batch
    seen = list(chain(*steps))
    assert {len(step) for step in steps} == {batch}
    assert len(set(seen)) == len(seen) == size // batch * batch
    assert set(seen) <= set(range(size))


def test_indices_are_int64():
    assert next(EpochOrder(SIZE, BATCH).steps(0)).dtype == np.int64


def test_over_the_epochs_no_sample_is_always_dropped():
    order = EpochOrder(SIZE, BATCH, SEED)
    dropped = [set(range(SIZE)) - set(chain(*epoch_of(order, epoch))) for epoch in range(10)]
    assert {len(samples) for samples in dropped} == {SIZE % BATCH}
    assert set.intersection(*dropped) == set()


@pytest.mark.parametrize("start_step", [0, 1, 5, 7, 8])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_start_step_skips_exactly_the_steps_before_it(start_step, rank):
    order = EpochOrder(SIZE, BATCH, SEED, rank, 2)
    assert len(order) == 8
    assert epoch_of(order, 3, start_step) == epoch_of(order, 3)[start_step:]


def test_order_is_a_function_of_seed_and_epoch_alone():
    first, second = EpochOrder(SIZE, BATCH, SEED), EpochOrder(SIZE, BATCH, SEED)
    late = epoch_of(first, 9)
    np.random.seed(1)  # noqa: NPY002 - the legacy state must not matter
    for epoch in (0, 9, 3, 9):
        assert (epoch_of(second, epoch) == late) == (epoch == 9)


def test_seeds_and_epochs_give_different_orders():
    orders = {
        tuple(EpochOrder(SIZE, BATCH, seed).permutation(epoch))
        for seed in range(6)
        for epoch in range(6)
    }
    assert len(orders) == 36


def test_the_batch_size_does_not_change_the_permutation():
    small, large = EpochOrder(96, 4, SEED), EpochOrder(96, 48, SEED)
    assert list(chain(*epoch_of(small, 2))) == list(chain(*epoch_of(large, 2)))


def test_every_sample_is_equally_likely_in_the_first_place():
    firsts = [EpochOrder(10, 10, SEED).permutation(epoch)[0] for epoch in range(2000)]
    assert stats.chisquare(np.bincount(firsts, minlength=10)).pvalue > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 10, "batch_size": 11}, r"batch_size=11.*10 images.*smaller"),
        ({"size": 10, "batch_size": 0}, "batch of 0"),
        ({"size": 10, "batch_size": -2}, "batch of -2"),
        ({"size": 100, "batch_size": 10, "world_size": 4}, r"batch of 10.*4 ranks.*multiple"),
    ],
)
def test_impossible_orders_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EpochOrder(**arguments)


@pytest.mark.parametrize("size", [0, 1, 2, 7, 100, 101, 1797])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_rank_shares_cover_everything_once_in_order_and_evenly(size, world_size):
    shares = [rank_share(size, rank, world_size) for rank in range(world_size)]
    assert list(chain(*shares)) == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
