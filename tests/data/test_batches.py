from itertools import chain

import numpy as np
import pytest
from scipy import stats

from sslortho.data import EpochOrder, PageOrder
from sslortho.data.batches import evaluation_batches, rank_share

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


@pytest.mark.parametrize(("size", "batch"), [(0, 3), (1, 3), (12, 3), (13, 3), (13, 20)])
@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_evaluation_batches_are_the_same_on_any_number_of_ranks(size, batch, world_size):
    dealt = [evaluation_batches(size, batch, rank, world_size) for rank in range(world_size)]
    expected = [list(range(size))[start : start + batch] for start in range(0, size, batch)]
    assert [list(part) for part in chain(*dealt)] == expected
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


def test_an_evaluation_batch_of_none_is_refused():
    with pytest.raises(ValueError, match="batch_size=0"):
        evaluation_batches(5, 0, 0, 1)


PAGES = np.sort(np.random.default_rng(0).integers(0, 40, 1003))  # of unequal sizes


def page_order(batch_size: int = 24, **options) -> PageOrder:
    return PageOrder(len(PAGES), batch_size, pages=PAGES, **options)


def test_a_page_order_visits_every_sample_once_but_for_the_remainder():
    for epoch in range(3):
        samples = np.concatenate(list(page_order().steps(epoch)))
        assert len(samples) == len(set(samples.tolist())) == 1003 // 24 * 24


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_a_page_order_gives_the_same_steps_to_any_number_of_ranks(world_size):
    ranks = [page_order(rank=r, world_size=world_size).steps(2) for r in range(world_size)]
    for whole, *parts in zip(page_order().steps(2), *ranks, strict=True):
        assert np.array_equal(np.concatenate(parts), whole)


def test_a_page_order_reads_each_page_in_one_stretch_and_on_few_ranks():
    steps = list(page_order().steps(0))
    # a run is one column; it visits its pages one after the other
    reads = 0
    for run in np.stack(steps).T:
        changes = np.flatnonzero(np.diff(PAGES[run])) + 1
        visited = PAGES[run][np.r_[0, changes]]
        assert len(visited) == len(set(visited.tolist()))
        reads += len(visited)
    assert reads <= len(set(PAGES.tolist())) + 24  # a page that two runs share is read twice
    ranks = [set() for _ in range(4)]
    for rank in range(4):
        for indices in page_order(rank=rank, world_size=4).steps(0):
            ranks[rank].update(PAGES[indices].tolist())
    assert sum(len(pages) for pages in ranks) <= len(set(PAGES.tolist())) + 4


def test_a_page_order_is_another_one_in_each_epoch_and_for_each_seed():
    orders = [page_order(seed=s).permutation(e).tolist() for s, e in ((0, 0), (0, 1), (1, 0))]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert orders[0] == page_order().permutation(0).tolist()


def test_a_page_order_shuffles_within_pages_and_mixes_pages_in_a_batch():
    steps = np.stack(list(page_order().steps(0)))
    assert np.mean([len(set(PAGES[step].tolist())) for step in steps]) > 15
    in_file_order = [np.all(np.diff(run[PAGES[run] == PAGES[run[0]]]) > 0) for run in steps.T]
    assert np.mean(in_file_order) < 0.5


def test_a_page_order_needs_a_page_for_each_sample():
    with pytest.raises(ValueError, match="pages=5"):
        PageOrder(6, 2, pages=np.arange(5))
