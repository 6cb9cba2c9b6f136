"""Training split among ranks, against the same training whole."""

import copy
import types

import pytest
import torch
from helpers.ranks import run_on_ranks
from helpers.sharded import gather_state
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_flatten
from torchvision.models import vit_b_16

from sslortho.methods import Task
from sslortho.methods.barlow_twins import BarlowTwins, BarlowTwinsOptions
from sslortho.models import convert_sync_batch_norm
from sslortho.optim import Muon, OrthAdam, OrthLARS
from sslortho.train import sharding
from sslortho.train.backward import name_offenders
from sslortho.train.sharding import (
    check_sharding,
    find_blocks,
    gather_into,
    gather_to_main,
    hold_gradients,
    scatter_state,
    shard_task,
    total_norm,
)

fsdp_on_cpu = pytest.mark.skipif(
    torch.__version__ < "2.7", reason="fully_shard of torch 2.6 needs a GPU"
)
CPU = torch.device("cpu")


def ranks_of(count: int, scaler=None, mixed_precision="no"):
    """A stand-in for an accelerator, with all that sharding reads of it."""
    return types.SimpleNamespace(
        num_processes=count, scaler=scaler, device=CPU, mixed_precision=mixed_precision
    )


def barlow_twins(seed: int = 0, own_statistics: bool = False) -> Task:
    """Channels last, with sides that neither two nor four ranks divide."""
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.Flatten())
    task = BarlowTwins(backbone, 20, BarlowTwinsOptions())
    task.projector = nn.Sequential(nn.Linear(20, 7), nn.ReLU(), nn.Linear(7, 6, bias=False))
    if not own_statistics:
        convert_sync_batch_norm(task, CPU)
    return task.to(memory_format=torch.channels_last)


OPTIMIZERS = {
    "lars": lambda task: OrthLARS(task.parameters(), lr=1.0, trust_coefficient=0.1),
    "adam": lambda task: OrthAdam(task.parameters(), lr=0.01),
    # its usual eps makes steps of rounding noise where a gradient is zero
    "muon": lambda task: Muon(task.parameters(), normalise_rows=0.9, eps=1e-3),
}


def views_of(step: int, rank: int = 0, ranks: int = 1) -> tuple[torch.Tensor, ...]:
    """A rank's share of a step's 16 pairs."""
    generator = torch.Generator().manual_seed(step)
    pair = torch.randn(2, 16, 3, 4, 4, generator=generator).chunk(ranks, dim=1)[rank]
    return tuple(pair)


def take_steps(task, optimizer, steps, rank: int = 0, ranks: int = 1) -> list[torch.Tensor]:
    """Norms of the gradients before each step."""
    norms = []
    for step in steps:
        optimizer.zero_grad()
        task(views_of(step, rank, ranks), torch.empty(0))["loss"].backward()
        norms.append(total_norm([p.grad for p in task.parameters()]))
        optimizer.step()
    return norms


def state_of(task, optimizer) -> dict:
    return {
        "task": gather_state(task.state_dict()),
        "optimizer": gather_state(optimizer.state_dict()),
    }


def load(state: dict, task, optimizer) -> None:
    # an optimizer goes on counting in the tensor it is given, which the ranks share
    weights, slots = scatter_state(copy.deepcopy(state), task, optimizer)
    task.load_state_dict(weights)
    optimizer.load_state_dict(slots)


def train_sharded(rank: int, ranks: int, name: str, steps, state=None):
    """Norms, the state, and the whole task's weights: of a fresh training, or one that goes on."""
    task = barlow_twins(seed=0 if state is None else 1)
    optimizer = OPTIMIZERS[name](task)
    sharded = shard_task(task, optimizer, ranks_of(ranks))
    at_first = None
    if state is not None:
        load(state, sharded, optimizer)
        at_first = copy.deepcopy(state_of(sharded, optimizer))
    norms = take_steps(sharded, optimizer, steps, rank, ranks)
    local = sum(p.to_local().numel() for p in sharded.parameters())
    after = state_of(sharded, optimizer)
    gather_into(task, sharded, CPU)
    return {
        "norms": norms, "state": after, "whole": task.state_dict(), "at_first": at_first,
        "local": local,
    }  # fmt: skip


def train_whole(name: str, steps, state=None):
    task = barlow_twins(seed=0 if state is None else 1)
    optimizer = OPTIMIZERS[name](task)
    if state is not None:
        load(state, task, optimizer)
    norms = take_steps(task, optimizer, steps)
    return {"norms": norms, "state": state_of(task, optimizer)}


def assert_close(ours: dict, theirs: dict, rtol: float = 1e-3, atol: float = 1e-5) -> None:
    """States of the same names, indices and options, all values near."""
    torch.testing.assert_close(ours["task"], theirs["task"], rtol=rtol, atol=atol)
    first, second = ours["optimizer"], theirs["optimizer"]
    assert first["param_groups"] == second["param_groups"]
    torch.testing.assert_close(first["state"], second["state"], rtol=rtol, atol=atol)


def assert_same_bits(ours: dict, theirs: dict) -> None:
    assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.ranks
@fsdp_on_cpu
@pytest.mark.parametrize(("name", "ranks"), [("lars", 2), ("lars", 4), ("adam", 2), ("muon", 2)])
def test_sharded_training_and_its_state_are_those_of_one_rank(tmp_path, name, ranks):
    results = run_on_ranks(train_sharded, ranks, tmp_path, ranks, name, range(3))
    alone = train_whole(name, range(3))
    for result in results:
        torch.testing.assert_close(result["norms"], alone["norms"], rtol=1e-4, atol=0)
        assert_close(result["state"], alone["state"])
        assert_same_bits(result["state"], results[0]["state"])
        torch.testing.assert_close(result["whole"], result["state"]["task"], rtol=0, atol=0)
    entries = sum(p.numel() for p in barlow_twins().parameters())
    assert sum(result["local"] for result in results) == entries
    assert max(result["local"] for result in results) < entries


@pytest.mark.ranks
@fsdp_on_cpu
@pytest.mark.parametrize(("name", "ranks"), [("lars", 4), ("adam", 2), ("muon", 2)])
def test_a_whole_state_goes_on_sharded(tmp_path, name, ranks):
    """Into another model's weights, so that what is not loaded shows."""
    state = train_whole(name, range(2))["state"]
    results = run_on_ranks(train_sharded, ranks, tmp_path, ranks, name, range(2, 4), state)
    assert_same_bits(results[0]["at_first"], state)
    assert_close(results[0]["state"], train_whole(name, range(4))["state"])


@pytest.mark.ranks
@fsdp_on_cpu
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_sharded_state_goes_on_whole(tmp_path, name):
    state = run_on_ranks(train_sharded, 2, tmp_path, 2, name, range(2))[0]["state"]
    assert_close(
        train_whole(name, range(2, 4), state)["state"], train_whole(name, range(4))["state"]
    )


def gather_on(rank: int) -> None:
    """The main rank's state is that which all gather; the other holds nothing whole."""
    task = barlow_twins()
    optimizer = OPTIMIZERS["lars"](task)
    sharded = shard_task(task, optimizer, ranks_of(2))
    take_steps(sharded, optimizer, range(1), rank, 2)
    ranks = types.SimpleNamespace(is_main_process=rank == 0)
    for module in (sharded, optimizer):
        split, _ = tree_flatten(module.state_dict())
        expected, _ = tree_flatten(gather_state(module.state_dict()))
        found, _ = tree_flatten(gather_to_main(module.state_dict(), ranks))
        assert any(isinstance(value, DTensor) for value in split)
        for part, whole, value in zip(split, expected, found, strict=True):
            if isinstance(part, torch.Tensor) and rank > 0:
                assert value is None
            elif isinstance(whole, torch.Tensor):
                torch.testing.assert_close(value, whole, rtol=0, atol=0)


@pytest.mark.ranks
@fsdp_on_cpu
def test_a_checkpoint_is_gathered_by_the_main_rank_alone(tmp_path):
    run_on_ranks(gather_on, 2, tmp_path)


def accumulate_on(rank: int) -> list[torch.Tensor]:
    task = barlow_twins()
    sharded = shard_task(task, OPTIMIZERS["lars"](task), ranks_of(2))
    with hold_gradients(sharded):
        sharded(views_of(0, rank, 2), torch.empty(0))["loss"].backward()
        assert all(p.grad is None for p in sharded.parameters())
    sharded(views_of(1, rank, 2), torch.empty(0))["loss"].backward()
    return gather_state([p.grad for p in sharded.parameters()])


@pytest.mark.ranks
@fsdp_on_cpu
def test_held_gradients_travel_with_the_last(tmp_path):
    results = run_on_ranks(accumulate_on, 2, tmp_path)
    task = barlow_twins()
    for step in range(2):
        task(views_of(step), torch.empty(0))["loss"].backward()
    expected = [p.grad for p in task.parameters()]
    for gradients in results:
        torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-6)


def offenders_seen_by(rank: int) -> tuple[torch.Tensor, str]:
    """The norm and the names after a gradient of one rank's shard alone is broken."""
    task = barlow_twins()
    sharded = shard_task(task, OPTIMIZERS["lars"](task), ranks_of(2))
    sharded(views_of(0, rank, 2), torch.empty(0))["loss"].backward()
    if rank == 1:
        sharded.projector[2].weight.grad.to_local()[-1] = float("nan")
    return total_norm([p.grad for p in sharded.parameters()]), name_offenders(sharded)


@pytest.mark.ranks
@fsdp_on_cpu
def test_a_gradient_that_is_not_finite_is_seen_and_named_by_all_ranks(tmp_path):
    for norm, names in run_on_ranks(offenders_seen_by, 2, tmp_path):
        assert torch.isnan(norm)
        assert names == "projector.2.weight"


# Blocks, and half precision on the way


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + self.conv(self.norm(x)).relu()


class Network(nn.Module):
    """A stem of its own, and three blocks in two stages."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.stages = nn.ModuleList(
            [nn.Sequential(Residual(width), Residual(width)), nn.Sequential(Residual(width))]
        )

    def forward(self, x):
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x.mean(dim=(2, 3))


BLOCK = 6 * 6 * 9 + 6 + 12
"""Entries of a Residual of 6 channels."""


@pytest.mark.parametrize(
    ("smallest", "largest", "expected"),
    [
        (BLOCK, BLOCK, ["stages.0.0", "stages.0.1", "stages.0", "stages.1"]),
        (BLOCK, 2 * BLOCK, ["stages.0", "stages.1"]),
        (BLOCK, BLOCK - 1, ["stages.0.0", "stages.0.1", "stages.0", "stages.1.0", "stages.1"]),
        (2 * BLOCK, BLOCK, ["stages.0"]),
        (2 * BLOCK + 1, BLOCK, []),
    ],
)
def test_blocks_are_large_members_of_lists_the_inner_ones_first(
    monkeypatch, smallest, largest, expected
):
    monkeypatch.setattr(sharding, "SMALLEST", smallest)
    monkeypatch.setattr(sharding, "LARGEST", largest)
    network = Network()
    names = {module: name for name, module in network.named_modules()}
    assert [names[block] for block in find_blocks(network)] == expected


def test_norms_are_no_blocks_and_what_is_shared_stays_with_the_rest(monkeypatch):
    monkeypatch.setattr(sharding, "SMALLEST", 9)
    assert find_blocks(nn.Sequential(nn.BatchNorm1d(100))) == []
    layers = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
    layers[2].weight = layers[0].weight
    layers.append(layers[1])
    assert find_blocks(layers) == [layers[3]]


def test_norms_of_other_libraries_are_known():
    class RmsNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

    norms = [RmsNorm(), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.BatchNorm2d(4), nn.RMSNorm(4)]
    others = [
        nn.Linear(4, 4),
        nn.Sequential(nn.LayerNorm(4)),
        nn.LayerNorm(4, elementwise_affine=False),
    ]
    others.append(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    found = [sharding._is_norm(module) for module in (*norms, *others)]
    assert found == [True] * len(norms) + [False] * len(others)


def test_a_vision_transformer_is_gathered_block_by_block():
    with torch.device("meta"):
        network = vit_b_16()
    names = {module: name for name, module in network.named_modules()}
    found = [names[block].removeprefix("encoder.layers.") for block in find_blocks(network)]
    assert found == [f"encoder_layer_{i}" for i in range(12)]


class Tokens(nn.Module):
    """A network with a parameter of its own, as vision transformers have."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.full((6,), 1 + 2**-12))
        self.norm, self.layer = nn.LayerNorm(6), nn.Linear(6, 6)
        self.inner = nn.Sequential(nn.Linear(6, 6))
        self.seen: set = set()

    def forward(self, x):
        self.seen.add(self.position.dtype)
        return self.inner(self.layer(self.norm(x + self.position)))


def test_blocks_of_nothing_but_what_autocast_rounds():
    network = Tokens()
    inner = network.inner[0]
    assert not sharding.is_rounded(network, [inner, network])
    assert sharding.is_rounded(inner, [inner, network])
    attention = nn.TransformerEncoderLayer(4, 2)
    assert sharding.is_rounded(attention, [attention])
    holder = nn.Sequential(nn.Conv2d(3, 3, 1), network)
    assert sharding.is_rounded(holder, [network, holder])
    assert not sharding.is_rounded(holder, [holder])
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    assert not sharding.is_rounded(normed, [normed])


def tokens_seen_by(rank: int) -> list[str]:
    sharding.SMALLEST = 40
    task = barlow_twins()
    task.projector = nn.Sequential(nn.Linear(20, 6), Tokens())
    sharded = shard_task(task, OPTIMIZERS["lars"](task), ranks_of(2, mixed_precision="bf16"))
    with torch.autocast("cpu", torch.bfloat16):
        sharded(views_of(0, rank, 2), torch.empty(0))
    return sorted(map(str, sharded.projector[1].seen))


@pytest.mark.ranks
@fsdp_on_cpu
def test_a_parameter_of_a_network_in_a_list_travels_as_it_is(tmp_path):
    assert run_on_ranks(tokens_seen_by, 2, tmp_path) == [["torch.float32"]] * 2


def blocks_task() -> Task:
    torch.manual_seed(0)
    task = BarlowTwins(Network(), 6, BarlowTwinsOptions())
    task.projector = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 6, bias=False))
    return convert_sync_batch_norm(task, CPU)


def train_narrow(rank: int, precision: str) -> dict:
    """Losses and norms of two steps under autocast, the types that layers saw, and the state."""
    sharding.SMALLEST = 40
    task = blocks_task()
    optimizer = OPTIMIZERS["lars"](task)
    sharded = shard_task(task, optimizer, ranks_of(2, mixed_precision=precision))
    seen: dict[str, set] = {}
    for name, module in sharded.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) or name.endswith("norm"):
            module.register_forward_pre_hook(
                lambda m, _, name=name: seen.setdefault(name, set()).add(m.weight.dtype)
            )
    losses, norms = [], []
    for step in range(2):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = sharded(views_of(step, rank, 2), torch.empty(0))["loss"]
        loss.backward()
        losses.append(loss.detach())
        norms.append(total_norm([p.grad for p in sharded.parameters()]))
        optimizer.step()
    types = {name: sorted(map(str, kinds)) for name, kinds in seen.items()}
    stored = {str(p.dtype) for p in sharded.parameters()}
    return {"losses": losses, "norms": norms, "types": types, "stored": sorted(stored),
            "state": state_of(sharded, optimizer)}  # fmt: skip


@pytest.mark.ranks
@fsdp_on_cpu
def test_blocks_travel_in_bfloat16_as_autocast_rounds_them(tmp_path):
    """The first loss is the same to the last bit, since autocast rounds weights of float32 anyway."""
    (tmp_path / "wide").mkdir()
    (tmp_path / "narrow").mkdir()
    wide = run_on_ranks(train_narrow, 2, tmp_path / "wide", "no")[0]
    narrow = run_on_ranks(train_narrow, 2, tmp_path / "narrow", "bf16")[0]
    half, single = ["torch.bfloat16"], ["torch.float32"]
    assert set(map(str, wide["types"].values())) == {str(single)}
    for name, kinds in narrow["types"].items():
        is_block = name.endswith("conv") or name.startswith("projector")
        assert kinds == (half if is_block else single), name
    assert narrow["stored"] == single
    assert torch.equal(narrow["losses"][0], wide["losses"][0])
    # two views' gradients are added in bfloat16, of 8 bits
    torch.testing.assert_close(narrow["norms"][0], wide["norms"][0], rtol=0.02, atol=0)
    torch.testing.assert_close(narrow["losses"][1], wide["losses"][1], rtol=0.05, atol=0)
    assert (
        narrow["state"]["optimizer"]["param_groups"] == wide["state"]["optimizer"]["param_groups"]
    )


# Whole tasks, and mistakes


def test_a_whole_state_is_left_as_it_is():
    state = train_whole("adam", range(1))["state"]
    task = barlow_twins()
    weights, slots = scatter_state(state, task, OPTIMIZERS["adam"](task))
    assert all(weights[name] is value for name, value in state["task"].items())
    assert slots == state["optimizer"]
    assert total_norm([torch.tensor([3.0]), torch.tensor([[4.0]])]) == 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_norm_of_half_precision_gradients_is_taken_in_float32(dtype):
    generator = torch.Generator().manual_seed(0)
    gradients = [
        (torch.randn(64, 64, generator=generator) * 3000).to(dtype),
        torch.full((2, 3), 7e-5).to(dtype),
        torch.randn(5, 5, generator=generator) * 1e4,
    ]
    expected = torch.cat([gradient.double().flatten() for gradient in gradients]).norm()
    assert expected > 65504
    norm = total_norm(iter(gradients))
    assert norm.dtype == torch.float32
    torch.testing.assert_close(norm.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(total_norm(gradients[:1]), gradients[0].float().norm())


def test_one_rank_and_a_scaler_are_refused():
    with pytest.raises(ValueError, match="shard=True has no effect on one rank"):
        check_sharding(ranks_of(1))
    with pytest.raises(ValueError, match="shard=True does not go with mixed_precision='fp16'"):
        check_sharding(ranks_of(2, scaler=object()))


@fsdp_on_cpu
def test_statistics_of_each_rank_are_refused():
    task = barlow_twins(own_statistics=True)
    with pytest.raises(ValueError, match=r"backbone\.1 would keep .* use sync_batch_norm=True"):
        shard_task(task, OPTIMIZERS["lars"](task), ranks_of(2))
