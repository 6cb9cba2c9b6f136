"""Training on several ranks, replicated and sharded, equals training on one."""

import pytest
import torch
from helpers.matrices import nearest_orthonormal
from helpers.ranks import run_on_ranks
from torch import nn

from sslortho.optim import Muon, OrthAdamW, OrthLARS, OrthSGD
from sslortho.optim.monitor import measure_gradients

fsdp_on_cpu = pytest.mark.skipif(
    torch.__version__ < "2.7", reason="fully_shard of torch 2.6 needs a GPU"
)


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


@pytest.mark.ranks
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
    "muon": lambda p: Muon(p, lr=0.02, adamw_lr=1e-3, weight_decay=0.01, normalise_rows=0.9),
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


@pytest.mark.ranks
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


PARTLY = {
    **OPTIMIZERS,
    "adamw": lambda p: OrthAdamW(p, lr=0.01, orth_momentum=0.5),
    "one by one": lambda p: OrthSGD(p, lr=0.05, momentum=0.9, foreach=False),
}


def trained_in_part_by(rank: int, name: str) -> list[torch.Tensor]:
    """The same images on both ranks, since no one averages the gradients of ignored parameters."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = small_model()
    ignored = {model.hidden.weight, model.out.bias}
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)), ignored_params=ignored)
    optimizer = PARTLY[name](model.parameters())
    before = [group["foreach"] for group in optimizer.param_groups]
    train(model, optimizer, images_for(1))
    assert [group["foreach"] for group in optimizer.param_groups] == before
    return [p.full_tensor() if hasattr(p, "full_tensor") else p.data for p in model.parameters()]


@pytest.mark.ranks
@fsdp_on_cpu
@pytest.mark.parametrize("name", PARTLY)
def test_groups_may_hold_sharded_and_whole_parameters(tmp_path, name):
    results = run_on_ranks(trained_in_part_by, 2, tmp_path, name)
    alone = small_model()
    train(alone, PARTLY[name](alone.parameters()), images_for(1))
    for parameters in results:
        for p, expected in zip(parameters, alone.parameters(), strict=True):
            torch.testing.assert_close(p, expected.data, rtol=1e-6, atol=1e-9)


def step_along_partial_sums(rank: int, momentum: float) -> list[torch.Tensor]:
    """A replicated weight of tensor parallelism, whose gradient is a sum over the ranks' halves of a batch."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    weight, batch = partial_case()
    parameter = nn.Parameter(distribute_tensor(weight, mesh, [Replicate()]))
    optimizer = OrthSGD([parameter], lr=1.0, momentum=0.0, orth_momentum=momentum)
    products = distribute_tensor(batch, mesh, [Shard(0)]) @ parameter
    products.square().sum().backward()
    assert parameter.grad.placements[0].is_partial()
    optimizer.step()
    return [parameter.full_tensor().detach()]


def partial_case() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 3, generator=generator), torch.randn(8, 5, generator=generator)


@pytest.mark.ranks
@fsdp_on_cpu
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_gradients_that_are_partial_sums_are_summed_first(tmp_path, momentum):
    weight, batch = partial_case()
    gradient = 2 * batch.mT @ (batch @ weight)
    expected = weight - nearest_orthonormal(gradient.double()).float()
    for (found,) in run_on_ranks(step_along_partial_sums, 2, tmp_path, momentum):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
