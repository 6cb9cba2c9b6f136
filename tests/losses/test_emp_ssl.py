"""The EMP-SSL loss beside its definition, closed forms, and figures of the authors' code."""

import math

import pytest
import torch
from helpers.ranks import run_on_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sslortho.losses import EMPSSLLoss
from sslortho.losses.emp_ssl import coding_rate, coding_rate_reference


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("shape", [(1, 1), (9, 4), (4, 9), (6, 6)])
def test_the_smaller_matrix_has_the_value_and_gradient_of_the_larger(shape):
    ours, theirs = (draw(*shape).requires_grad_() for _ in range(2))
    for function, z in ((coding_rate, ours), (coding_rate_reference, theirs)):
        function(z, 0.2).backward()
    torch.testing.assert_close(coding_rate(ours, 0.2), coding_rate_reference(theirs, 0.2))
    torch.testing.assert_close(ours.grad, theirs.grad)
    stacked = torch.stack([ours, 2 * ours])
    one_by_one = torch.stack([coding_rate(z, 0.2) for z in stacked])
    torch.testing.assert_close(coding_rate(stacked, 0.2), one_by_one)


@pytest.mark.parametrize(("batch", "dim"), [(8, 8), (20, 5), (3, 12)])
def test_orthogonal_samples_have_the_highest_rate_and_equal_ones_the_lowest(batch, dim):
    """The sum of log(1 + x) / 2 over eigenvalues x, whose sum is given, is highest where they are equal."""
    rank = min(batch, dim)
    spread = torch.linalg.qr(draw(max(batch, dim), rank))[0]
    spread = spread if batch >= dim else spread.mT
    spread = spread * math.sqrt(batch / rank)  # whose squares sum to that of batch rows of length 1
    highest = rank / 2 * math.log(1 + dim / (rank * 0.2))
    assert float(coding_rate(spread, 0.2)) == pytest.approx(highest)
    equal = torch.zeros(batch, dim).double()
    equal[:, 0] = 1
    assert float(coding_rate(equal, 0.2)) == pytest.approx(math.log(1 + dim / 0.2) / 2)
    between = nn.functional.normalize(draw(batch, dim), dim=1)
    assert float(coding_rate(equal, 0.2)) < float(coding_rate(between, 0.2)) < highest + 1e-9


@pytest.mark.parametrize(
    ("shape", "theirs"), [((5, 12, 7), -109.83338165283203), ((3, 6, 16), -128.47817993164062)]
)
def test_the_figures_are_those_of_the_authors_code(shape, theirs):
    """Computed with Similarity_Loss, cal_TCR and TotalCodingRate(eps=0.2) of tsb0601/EMP-SSL at 8fc3758
    (August 2023), and its weights 200 and 1, on a CPU with torch 2.14."""
    z = torch.arange(math.prod(shape)).reshape(shape) ** 2 % 17 / 8 - 1.0
    assert float(EMPSSLLoss()(z)) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize(
    ("shape", "eps"), [((64, 512), 1e-3), ((32, 256), 1e-6), ((300, 64), 1e-4), ((64, 256), 0.026)]
)
@pytest.mark.parametrize("spread", [0.0, 1e-4, 1.0])
def test_float32_has_the_rate_and_gradient_of_float64_however_small_eps_is(shape, eps, spread):
    """Also of projections that have collapsed, where the largest eigenvalue is 1 + dim / eps."""
    z = nn.functional.normalize(draw(1, shape[1]) + spread * draw(*shape, seed=1), dim=1).float()
    ours, theirs = z.requires_grad_(), z.detach().double().requires_grad_()
    found, expected = coding_rate(ours, eps), coding_rate_reference(theirs, eps)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)
    found.backward()
    expected.backward()
    error = torch.linalg.vector_norm(ours.grad - theirs.grad)
    assert error < 0.05 * torch.linalg.vector_norm(theirs.grad)


def test_it_weighs_cosines_with_the_mean_and_the_rate_of_each_view():
    z = draw(4, 6, 5)
    unit = z / z.norm(dim=2, keepdim=True)
    mean = unit.mean(dim=0)
    cosine = sum((view * mean).sum(dim=1).div(mean.norm(dim=1)).mean() for view in unit) / 4
    rate = sum(coding_rate_reference(view, 0.5) for view in unit) / 4
    loss = EMPSSLLoss(similarity=3.0, coding_rate=0.7, eps=0.5)
    torch.testing.assert_close(loss(z), -3 * cosine - 0.7 * rate)
    torch.testing.assert_close(loss(7 * z), loss(z))


def test_wrong_values():
    with pytest.raises(ValueError, match="eps=0 must be above 0"):
        EMPSSLLoss(eps=0)
    with pytest.raises(ValueError, match=r"z must be \(views, batch, dim\), got \(4, 5\)"):
        EMPSSLLoss()(draw(4, 5))


BATCH = 12


class Crops(nn.Module):
    """A small network, and the loss of three crops (3, batch, 4)."""

    def __init__(self, gather, dim):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, dim)).double()
        self.loss = EMPSSLLoss(2.0, gather_distributed=gather)

    def forward(self, x):
        return self.loss(self.network(x))


def backward(crops, x):
    loss = crops(x)
    loss.backward()
    return loss.detach(), [p.grad for p in crops.parameters()]


DIMS = (5, 20)
"""Fewer than the samples, and more."""


def on_rank(rank, world_size):
    share = BATCH // world_size
    x = draw(3, BATCH, 4)[:, rank * share : (rank + 1) * share]
    found = []
    for dim in DIMS:
        loss, gradients = backward(DistributedDataParallel(Crops(True, dim)), x)
        torch.distributed.all_reduce(loss)
        found.append((loss / world_size, gradients))
    return found


@pytest.mark.ranks
def test_ranks_together_have_the_loss_and_gradient_of_one(tmp_path):
    expected = [backward(Crops(False, dim), draw(3, BATCH, 4)) for dim in DIMS]
    for rank in run_on_ranks(on_rank, 3, tmp_path, 3):
        torch.testing.assert_close(rank, expected)
