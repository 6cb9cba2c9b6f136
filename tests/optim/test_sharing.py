import collections
import copy
import gc
import itertools
import pickle
import warnings

import pytest
import torch
import torch.distributed as dist
from helpers.matrices import nearest_orthonormal
from helpers.ranks import run_on_ranks
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sslortho.optim import OrthSGD, orthonormalise_, sharing
from sslortho.optim.data_parallel import find_data_parallel
from sslortho.optim.sharing import check_share, deal

# the convolutions of a small ResNet, a dense layer, and more matrices than ranks of one shape
SHAPES = [(64, 3, 7, 7), *[(64, 64, 3, 3)] * 4, (128, 64, 3, 3), *[(128, 128, 3, 3)] * 3]
SHAPES += [(128, 64, 1, 1), (10, 128), (1, 5), (3, 2, 2, 2)]


def parameters_with_gradients(shapes=SHAPES, seed: int = 0, **options) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    parameters = [nn.Parameter(torch.zeros(shape, **options)) for shape in shapes]
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator).to(p)
    return parameters


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("costs", [[5, 5, 4, 4, 3, 3, 3], [9, 1, 1, 1], [1], [2, 2, 2, 2, 2], []])
def test_no_rank_has_much_more_than_it_must(costs, ranks):
    """Graham's bound against the best of all ways to deal."""
    owner = deal(costs, ranks)
    assert len(owner) == len(costs)

    def largest(owners) -> int:
        loads = [0] * ranks
        for cost, rank in zip(costs, owners, strict=True):
            loads[rank] += cost
        return max(loads)

    best = min(largest(o) for o in itertools.product(range(ranks), repeat=len(costs)))
    assert best <= largest(owner) <= (4 / 3 - 1 / (3 * ranks)) * best + 1e-9


def shared_gradients(rank: int, polar: str, channels_last: bool, message: int | None) -> list:
    if message is not None:
        sharing.MESSAGE = message
    shapes = [shape for shape in SHAPES if len(shape) == 4] if channels_last else SHAPES
    options = {"memory_format": torch.channels_last} if channels_last else {}
    parameters = parameters_with_gradients(shapes)
    for p in parameters:
        p.grad = p.grad.contiguous(**options)
    orthonormalise_(parameters, polar, share=True)
    return [p.grad for p in parameters]


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("ranks", "polar", "channels_last", "message"),
    [
        (2, "auto", False, None),
        (4, "auto", False, None),
        (3, "svd", False, 50_000),
        (2, "polar_express", True, 1),
        (2, "auto", True, None),
    ],
)
def test_sharing_changes_nothing(tmp_path, ranks, polar, channels_last, message):
    results = run_on_ranks(shared_gradients, ranks, tmp_path, polar, channels_last, message)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    shapes = [p.shape for p in results[0]]
    alone = parameters_with_gradients(shapes)
    if channels_last:
        for p in alone:
            p.grad = p.grad.contiguous(memory_format=torch.channels_last)
    orthonormalise_(alone, polar)
    atol = 1e-6 if polar == "auto" else 1e-5
    for p, shared in zip(alone, results[0], strict=True):
        torch.testing.assert_close(shared, p.grad, rtol=0, atol=atol)


def count_operations(rank: int) -> int:
    parameters = parameters_with_gradients()
    with FlopCounterMode(display=False) as counter:
        orthonormalise_(parameters, "polar_express", share=True)
    return counter.get_total_flops()


@pytest.mark.ranks
@pytest.mark.parametrize("ranks", [2, 4])
def test_each_rank_does_its_share(tmp_path, ranks, set_threads):
    set_threads(1)  # the counter sees its own thread only
    with FlopCounterMode(display=False) as counter:
        orthonormalise_(parameters_with_gradients(), "polar_express")
    whole = counter.get_total_flops()
    counts = run_on_ranks(count_operations, ranks, tmp_path)
    assert sum(counts) == pytest.approx(whole, rel=0.01)
    assert max(counts) < 1.25 * whole / ranks


def step_of_each_rank(rank: int, share, seeds: list[int], wrapped: bool) -> tuple:
    """Gradients after two steps, or what both raised, and the warnings."""
    parameters = parameters_with_gradients([(6, 9), (9, 6), (4, 4)], seed=seeds[rank])
    holder = nn.ParameterList(parameters)
    if wrapped:
        holder = nn.parallel.DistributedDataParallel(holder)
    optimizer = OrthSGD(parameters, lr=0.1, share=share)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            optimizer.step()
        except ValueError as error:
            with pytest.raises(ValueError, match="gradients differ"):
                optimizer.step()  # insists again
            return str(error), len(caught)
        optimizer.step()
    messages = [str(w.message) for w in caught if "ranks' gradients differ" in str(w.message)]
    return [p.grad for p in parameters], len(messages)


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("share", "wrapped", "warned"), [("auto", True, 1), ("auto", False, 0), (False, True, 0)]
)
def test_ranks_with_gradients_of_their_own_keep_them(tmp_path, share, wrapped, warned):
    """Each rank ends with the polar factors of its own gradients."""
    results = run_on_ranks(step_of_each_rank, 2, tmp_path, share, [1, 2], wrapped)
    for seed, (gradients, warnings_) in zip([1, 2], results, strict=True):
        assert warnings_ == warned
        own = parameters_with_gradients([(6, 9), (9, 6), (4, 4)], seed=seed)
        for p, gradient in zip(own, gradients, strict=True):
            expected = nearest_orthonormal(p.grad).float()
            torch.testing.assert_close(gradient, expected, rtol=0, atol=2e-5)


@pytest.mark.ranks
def test_insisting_on_sharing_what_differs_is_an_error(tmp_path):
    for message, _ in run_on_ranks(step_of_each_rank, 2, tmp_path, True, [1, 2], True):
        assert "share=True, but the ranks' gradients differ" in message


@pytest.mark.ranks
def test_equal_gradients_are_shared_without_a_word(tmp_path):
    results = run_on_ranks(step_of_each_rank, 2, tmp_path, "auto", [1, 1], True)
    assert [warnings_ for _, warnings_ in results] == [0, 0]


def share_in_a_group(rank: int, share) -> tuple[list, bool | None]:
    """Gradients of three ranks of which two are a group; whether they share. No module is wrapped."""
    group = dist.new_group([0, 1])

    def search(parameters):
        raise AssertionError("a process group was given")

    sharing.find_data_parallel = search
    parameters = parameters_with_gradients([(6, 9), (9, 6), (4, 4)], seed=1)
    if rank == 2:  # its group is not one that it could share in
        with pytest.raises(ValueError, match=r"process_group=.* that this rank is in"):
            OrthSGD(parameters, lr=0.1, process_group=group)
        return [], None
    optimizer = OrthSGD(parameters, lr=0.1, share=share, process_group=group)
    optimizer.step()
    return [p.grad for p in parameters], optimizer._sharing._shared


@pytest.mark.ranks
@pytest.mark.parametrize("share", ["auto", True])
def test_a_process_group_that_is_given_is_used_without_a_search(tmp_path, share):
    first, second, third = run_on_ranks(share_in_a_group, 3, tmp_path, share)
    assert [first[1], second[1], third[1]] == [True, True, None]
    for gradients in zip(first[0], second[0], strict=True):
        assert torch.equal(*gradients)
    for p, gradient in zip(
        parameters_with_gradients([(6, 9), (9, 6), (4, 4)], seed=1), first[0], strict=True
    ):
        expected = nearest_orthonormal(p.grad).float()
        torch.testing.assert_close(gradient, expected, rtol=0, atol=2e-5)


def copy_with_a_group(rank: int) -> list:
    """(share, process_group) of copies of optimizers that were given a process group."""
    parameter = nn.Parameter(torch.zeros(2, 2))
    remembered = []
    for share in ("auto", True):
        optimizer = OrthSGD([parameter], lr=0.1, share=share, process_group=dist.group.WORLD)
        resumed = OrthSGD([parameter], lr=0.1)
        resumed.load_state_dict(optimizer.state_dict())
        twins = (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer)), resumed)
        remembered += [(twin.share, twin.process_group) for twin in twins]
    with pytest.raises(ValueError, match=r"process_group=.* has no effect with share=False"):
        OrthSGD([parameter], lr=0.1, share=False, process_group=dist.group.WORLD)
    return remembered


@pytest.mark.ranks
def test_a_process_group_is_not_copied_and_true_without_it_is_auto(tmp_path):
    (remembered,) = run_on_ranks(copy_with_a_group, 1, tmp_path)
    assert remembered == 6 * [("auto", None)]


def test_a_process_group_is_checked():
    with pytest.raises(ValueError, match="process_group='all' must be a torch"):
        OrthSGD([nn.Parameter(torch.zeros(2, 2))], lr=0.1, process_group="all")


def search_wrapped_modules(rank: int) -> list[bool]:
    """Whether the module that holds a parameter is found: the newest one that is still alive."""
    gc.get_objects = None  # pyright: ignore[reportAttributeAccessIssue]
    model, other = nn.Linear(2, 3), nn.Linear(2, 3)
    found = [find_data_parallel(model.parameters()) is None]
    first = nn.parallel.DistributedDataParallel(model)
    second = nn.parallel.DistributedDataParallel(nn.Sequential(model, nn.Linear(3, 1)))
    found.append(find_data_parallel([model.bias]) is second)
    found.append(find_data_parallel(other.parameters()) is None)
    del second
    gc.collect()
    found.append(find_data_parallel([model.bias]) is first)
    return found


@pytest.mark.ranks
def test_wrapped_modules_are_known_without_a_search_of_all_objects(tmp_path):
    (found,) = run_on_ranks(search_wrapped_modules, 1, tmp_path)
    assert found == 4 * [True]


def step_after_a_late_import(rank: int, kind: str) -> int:
    """Number of warnings of a first step where sslortho was imported after torch.distributed ran."""
    sharing.IMPORTED_LATE = True
    parameters = parameters_with_gradients([(6, 9)])
    holder = nn.ParameterList(parameters)
    if kind == "wrapped":
        holder = nn.parallel.DistributedDataParallel(holder)
    share = False if kind == "off" else "auto"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        OrthSGD(parameters, lr=0.1, share=share).step()
    return sum("process_group=" in str(warning.message) for warning in caught)


@pytest.mark.ranks
@pytest.mark.parametrize(("kind", "warned"), [("plain", 1), ("wrapped", 0), ("off", 0)])
def test_a_module_that_may_have_been_missed_is_a_warning(tmp_path, kind, warned):
    assert run_on_ranks(step_after_a_late_import, 2, tmp_path, kind) == [warned, warned]


def steps_with_uneven_gradients(rank: int, kind: str) -> list:
    """Gradients after steps in which one rank has none, has fewer at first, or does not step at all."""
    parameters = parameters_with_gradients([(6, 9), (9, 6)], seed=1)
    optimizer = OrthSGD(parameters, lr=0.1)  # share="auto"
    holder = nn.ParameterList(parameters)
    if kind != "alone":
        holder = nn.parallel.DistributedDataParallel(holder)
    for step in range(3):
        for p, fresh in zip(parameters, parameters_with_gradients([(6, 9), (9, 6)]), strict=True):
            p.grad = fresh.grad
        if kind == "none" and rank == 1:
            for p in parameters:
                p.grad = None
        if kind == "fewer at first" and rank == 1 and step == 0:
            parameters[1].grad = None
        if kind == "alone" and rank == 1:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer.step()
    return [p.grad for p in parameters if p.grad is not None]


@pytest.mark.ranks
@pytest.mark.parametrize("kind", ["none", "fewer at first", "alone"])
def test_ranks_that_are_not_alike_do_not_wait_for_each_other(tmp_path, kind):
    results = run_on_ranks(steps_with_uneven_gradients, 2, tmp_path, kind, timeout=60)
    for p, gradient in zip(parameters_with_gradients([(6, 9), (9, 6)]), results[0], strict=True):
        expected = nearest_orthonormal(p.grad).float()
        torch.testing.assert_close(gradient, expected, rtol=0, atol=2e-5)


UNEVEN = [(100, 200), (3, 4), (3, 4), (3, 4), (5, 2)]


def share_one_large_matrix(rank: int) -> tuple[int, list]:
    """Entries received where one rank has nearly everything to send, and the results."""
    sizes = []
    original = sharing._Message

    def record(problems, indices, buffers, works):
        sizes.append(sum(buffer.numel() for buffer in buffers))
        return original(problems, indices, buffers, works)

    sharing._Message = record
    parameters = parameters_with_gradients(UNEVEN)
    orthonormalise_(parameters, share=True)
    return sum(sizes), [p.grad for p in parameters]


@pytest.mark.ranks
def test_padding_is_bounded(tmp_path):
    results = run_on_ranks(share_one_large_matrix, 4, tmp_path)
    expected = [nearest_orthonormal(p.grad).float() for p in parameters_with_gradients(UNEVEN)]
    for received, gradients in results:
        assert received <= 2 * (100 * 200 + 36 + 10)
        for gradient, factor in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, factor, rtol=0, atol=2e-5)


def test_sharing_can_be_switched_off_later():
    optimizer = OrthSGD(parameters_with_gradients(), lr=0.1, share=True)
    optimizer.step()
    assert optimizer._sharing.share is True
    optimizer.share = False
    optimizer.step()
    assert optimizer._sharing.share is False


def test_nothing_is_shared_without_other_ranks():
    shared, plain = parameters_with_gradients(), parameters_with_gradients()
    OrthSGD(shared, lr=0.1, share=True).step()
    OrthSGD(plain, lr=0.1, share=False).step()
    orthonormalise_(parameters_with_gradients(), share=True)
    assert all(torch.equal(a, b) for a, b in zip(shared, plain, strict=True))


@pytest.mark.parametrize("share", ["yes", None, 1])
def test_share_is_checked(share):
    with pytest.raises(ValueError, match=r"share=.* must be 'auto', True or False"):
        check_share(share)
    with pytest.raises(ValueError, match=r"share=.* must be True or False"):
        orthonormalise_(parameters_with_gradients(), share=share)
    with pytest.raises(ValueError, match="share="):
        OrthSGD([nn.Parameter(torch.zeros(2, 2))], lr=0.1, share=share)


def test_share_survives_pickling_and_is_not_part_of_the_state():
    optimizer = OrthSGD([nn.Parameter(torch.zeros(2, 2))], lr=0.1, share=False)
    assert pickle.loads(pickle.dumps(optimizer)).share is False
    other = OrthSGD([nn.Parameter(torch.zeros(2, 2))], lr=0.1, share=True)
    other.load_state_dict(optimizer.state_dict())
    assert other.share is True


def steps_with_uneven_data(rank: int) -> torch.Tensor:
    """Rank 1 has more batches than rank 0."""
    from torch.distributed.algorithms.join import Join

    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(nn.Linear(6, 4))
    optimizer = OrthSGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(rank)
    with Join([model]):
        for _ in range(3 + 2 * rank):
            optimizer.zero_grad()
            model(torch.randn(5, 6, generator=generator)).square().sum().backward()
            optimizer.step()
    return model.module.weight.detach()


@pytest.mark.ranks
def test_a_rank_without_data_does_not_let_the_others_wait(tmp_path):
    first, second = run_on_ranks(steps_with_uneven_data, 2, tmp_path, timeout=120)
    assert first.isfinite().all()
    assert torch.equal(first, second)  # at its end Join hands over what the last rank has learned


def test_join_is_noticed():
    class Module:
        _join_config = None

    module = Module()
    assert not sharing.lets_ranks_end_early(module)
    kind = collections.namedtuple("kind", "enable throw_on_early_termination")
    for enable, throws in itertools.product([True, False], repeat=2):
        module._join_config = kind(enable, throws)
        assert sharing.lets_ranks_end_early(module) == (enable and not throws)
