import pytest
import torch
import torch.distributed as dist
from helpers.ranks import run_on_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sslortho.losses import BarlowTwinsLoss
from sslortho.losses.gather import gather_batch
from sslortho.models import convert_sync_batch_norm

BATCH = 12
DIM = 5
LAMBDA = 0.1


class Twins(nn.Module):
    """A small network with batch norm inside, and the loss of two batches of inputs."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, DIM, bias=False)
        ).double()
        self.loss = loss

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.loss(self.network(a), self.network(b))


def draw_inputs() -> torch.Tensor:
    """(2 views, BATCH, 4)."""
    return torch.randn(2, BATCH, 4, generator=torch.Generator().manual_seed(1)).double()


def facebook_loss(z_a: torch.Tensor, z_b: torch.Tensor) -> torch.Tensor:
    """The formula of facebookresearch/barlowtwins with torch's batch norm."""
    batch_norm = nn.BatchNorm1d(DIM, affine=False).double()
    c = batch_norm(z_a).T @ batch_norm(z_b) / len(z_a)
    weight = LAMBDA + (1 - LAMBDA) * torch.eye(DIM).double()
    return (weight * (c - torch.eye(DIM).double()).square()).sum()


def gradients_of(twins: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix("module."): parameter.grad for name, parameter in twins.named_parameters()
    }


def backward_on_rank(rank: int, forms: tuple[str, ...]) -> dict:
    share = BATCH // dist.get_world_size()
    a, b = draw_inputs()[:, rank * share : (rank + 1) * share]
    results = {}
    for form in forms:
        twins = Twins(BarlowTwinsLoss(LAMBDA, gather_distributed=True, form=form))
        convert_sync_batch_norm(twins, torch.device("cpu"))
        twins = DistributedDataParallel(twins)
        loss = twins(a, b)
        loss.backward()
        results[form] = (loss.detach(), gradients_of(twins))
    return results


@pytest.mark.ranks
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_have_the_loss_and_gradient_of_one(world_size, tmp_path):
    alone = Twins(facebook_loss)
    loss = alone(*draw_inputs())
    loss.backward()
    expected = (loss.detach(), gradients_of(alone))
    ranks = run_on_ranks(backward_on_rank, world_size, tmp_path, ("correlation", "gram"))
    assert len(ranks) == world_size
    for rank in ranks:
        torch.testing.assert_close(rank["correlation"], expected)
        torch.testing.assert_close(rank["gram"], expected)


def local_loss_on_rank(rank: int) -> torch.Tensor:
    return BarlowTwinsLoss(LAMBDA)(*draw_inputs()[:, rank::2])


@pytest.mark.ranks
def test_without_gather_each_rank_has_the_loss_of_its_own_batch(tmp_path):
    ranks = run_on_ranks(local_loss_on_rank, 2, tmp_path)
    expected = []
    for rank in range(2):
        z_a, z_b = (nn.BatchNorm1d(4, affine=False).double()(z) for z in draw_inputs()[:, rank::2])
        squares = (z_a.T @ z_b / (BATCH // 2) - torch.eye(4).double()).square()
        expected.append(LAMBDA * squares.sum() + (1 - LAMBDA) * squares.diagonal().sum())
    torch.testing.assert_close(ranks, expected)
    assert ranks[0] != ranks[1]


def gather_on_rank(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    local = (torch.arange(6.0).reshape(3, 2).T + 10 * rank).requires_grad_()  # not contiguous
    together = gather_batch(local)
    (together * torch.arange(12.0).reshape(4, 3)).sum().backward()
    return together.detach(), local.grad


@pytest.mark.ranks
def test_gather_is_in_rank_order_and_its_gradient_is_the_sum_over_ranks(tmp_path):
    base = torch.arange(6.0).reshape(3, 2).T
    weights = torch.arange(12.0).reshape(2, 2, 3)
    for rank, (together, gradient) in enumerate(run_on_ranks(gather_on_rank, 2, tmp_path)):
        assert torch.equal(together, torch.cat([base, base + 10]))
        assert torch.equal(gradient, 2 * weights[rank])


def fail_on_rank_one(rank: int) -> None:
    if rank == 1:
        raise KeyError("the one that fails")
    dist.barrier()


@pytest.mark.ranks
def test_a_rank_that_fails_raises_here_with_its_traceback(tmp_path):
    with pytest.raises(Exception, match=r"(?s)fail_on_rank_one.*the one that fails"):
        run_on_ranks(fail_on_rank_one, 2, tmp_path)


def hang_on_rank_one(rank: int) -> None:
    if rank == 1:
        torch.distributed.recv(torch.zeros(1), src=0)


@pytest.mark.ranks
def test_ranks_that_hang_are_ended(tmp_path):
    with pytest.raises(TimeoutError, match="2 ranks did not come back"):
        run_on_ranks(hang_on_rank_one, 2, tmp_path, timeout=2.0)
