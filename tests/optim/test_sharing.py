import itertools
import pickle
import warnings

import pytest
import torch
from helpers.matrices import nearest_orthonormal
from helpers.ranks import run_on_ranks
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sslortho.optim import OrthLARS, OrthSGD, orthonormalise_
from sslortho.optim.monitor import measure_gradients
from sslortho.optim.sharing import check_share, deal

# the convolutions of a small ResNet, a dense layer, and more matrices than ranks of one shape
SHAPES = [(64, 3, 7, 7), *[(64, 64, 3, 3)] * 4, (128, 64, 3, 3), *[(128, 128, 3, 3)] * 3]
SHAPES += [(128, 64, 1, 1), (10, 128), (1, 5), (3, 2, 2, 2)]


fsdp_on_cpu = pytest.mark.skipif(
    torch.__version__ < "2.7", reason="fully_shard of torch 2.6 needs a GPU"
)


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
    from sslortho.optim import sharing

    if message is not None:
        sharing.MESSAGE = message
    shapes = [shape for shape in SHAPES if len(shape) == 4] if channels_last else SHAPES
    options = {"memory_format": torch.channels_last} if channels_last else {}
    parameters = parameters_with_gradients(shapes)
    for p in parameters:
        p.grad = p.grad.contiguous(**options)
    orthonormalise_(parameters, polar, share=True)
    return [p.grad for p in parameters]


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


@pytest.mark.parametrize("ranks", [2, 4])
def test_each_rank_does_its_share(tmp_path, ranks):
    with FlopCounterMode(display=False) as counter:
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # the counter sees its own thread only
        orthonormalise_(parameters_with_gradients(), "polar_express")
        torch.set_num_threads(before)
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


def test_insisting_on_sharing_what_differs_is_an_error(tmp_path):
    for message, _ in run_on_ranks(step_of_each_rank, 2, tmp_path, True, [1, 2], True):
        assert "share=True, but the ranks' gradients differ" in message


def test_equal_gradients_are_shared_without_a_word(tmp_path):
    results = run_on_ranks(step_of_each_rank, 2, tmp_path, "auto", [1, 1], True)
    assert [warnings_ for _, warnings_ in results] == [0, 0]


def steps_with_uneven_gradients(rank: int, kind: str) -> list:
    """Ranks that do not hold the same parameters, or not all with gradients, or of which one rests."""
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


@pytest.mark.parametrize("kind", ["none", "fewer at first", "alone"])
def test_ranks_that_are_not_alike_do_not_wait_for_each_other(tmp_path, kind):
    results = run_on_ranks(steps_with_uneven_gradients, 2, tmp_path, kind, timeout=60)
    for p, gradient in zip(parameters_with_gradients([(6, 9), (9, 6)]), results[0], strict=True):
        expected = nearest_orthonormal(p.grad).float()
        torch.testing.assert_close(gradient, expected, rtol=0, atol=2e-5)


UNEVEN = [(100, 200), (3, 4), (3, 4), (3, 4), (5, 2)]


def share_one_large_matrix(rank: int) -> tuple[int, list]:
    """Entries of all that arrives where one rank has nearly all there is to send, and the results."""
    from sslortho.optim import sharing

    sizes = []
    original = sharing._Message

    def record(problems, indices, buffers, works):
        sizes.append(sum(buffer.numel() for buffer in buffers))
        return original(problems, indices, buffers, works)

    sharing._Message = record
    parameters = parameters_with_gradients(UNEVEN)
    orthonormalise_(parameters, share=True)
    return sum(sizes), [p.grad for p in parameters]


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


class Small(nn.Module):
    """Sides of 3 and 2, smaller than a mesh of four, and of 5 and 7, which it does not divide."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 5, 3, bias=False)
        self.hidden = nn.Linear(20, 7)
        self.out = nn.Linear(7, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.hidden(self.conv(x).flatten(1))))


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return Small().double()


def train(model: nn.Module, optimizer, images: torch.Tensor) -> None:
    for _ in range(3):
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()


def images_for(world_size: int, rank: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4 * world_size, 2, 4, 4, generator=generator, dtype=torch.float64)
    return images if rank is None else images[4 * rank : 4 * rank + 4]


def measured_by(rank: int) -> dict[str, float]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = small_model()
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    model(images_for(1)).square().mean().backward()
    return measure_gradients([{"params": list(model.parameters())}])


@fsdp_on_cpu
def test_sharded_gradients_are_measured_whole(tmp_path):
    results = run_on_ranks(measured_by, 2, tmp_path)
    model = small_model()
    model(images_for(1)).square().mean().backward()
    expected = measure_gradients([{"params": list(model.parameters())}])
    for figures in results:
        assert figures == pytest.approx(expected, rel=1e-6)


OPTIMIZERS = {
    "sgd": lambda p: OrthSGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "lars": lambda p: OrthLARS(p, lr=2.0, weight_decay=0.01, trust_coefficient=0.1),
}


def trained_by(rank: int, world_size: int, kind: str, name: str) -> list[torch.Tensor]:
    model = small_model()
    if kind == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        shape, names = {
            "fsdp": ((world_size,), ("all",)),
            "hybrid": ((2, world_size // 2), ("replicas", "shards")),
        }[kind]
        fully_shard(model, mesh=init_device_mesh("cpu", shape, mesh_dim_names=names))
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, images_for(world_size, rank))
    return [p.full_tensor() if hasattr(p, "full_tensor") else p.data for p in model.parameters()]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    ("kind", "ranks"),
    [
        ("ddp", 2),
        ("ddp", 4),
        pytest.param("fsdp", 2, marks=fsdp_on_cpu),
        pytest.param("fsdp", 4, marks=fsdp_on_cpu),
        pytest.param("hybrid", 4, marks=fsdp_on_cpu),
    ],
)
def test_training_on_ranks_equals_training_on_one(tmp_path, kind, ranks, name):
    results = run_on_ranks(trained_by, ranks, tmp_path, ranks, kind, name)
    alone = small_model()
    train(alone, OPTIMIZERS[name](alone.parameters()), images_for(ranks))
    for parameters in results:
        for p, expected in zip(parameters, alone.parameters(), strict=True):
            torch.testing.assert_close(p, expected.data, rtol=1e-6, atol=1e-9)
