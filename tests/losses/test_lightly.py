"""Our loss where lightly's class of the same name is expected."""

import inspect
import warnings

import pytest
import torch
import torch.distributed as dist
from helpers.ranks import run_on_ranks

from sslortho.losses import BarlowTwinsLoss

LAMBDA = 0.02
BATCH = 8  # of each rank
DIM = 5


def lightly_class() -> type[torch.nn.Module]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's, while they are imported
        from lightly.loss import BarlowTwinsLoss as Theirs
    return Theirs


def draw(seed: int = 0) -> torch.Tensor:
    """(2 views, 2 BATCH, DIM), correlated; the halves of the batch have other means and scales."""
    generator = torch.Generator().manual_seed(seed)
    first, noise = torch.randn(2, 2 * BATCH, DIM, generator=generator, dtype=torch.float64)
    views = torch.stack([first, first + 0.5 * noise])
    views[:, BATCH:] = 3 * views[:, BATCH:] + 2
    return views


def draw_equal_statistics() -> torch.Tensor:
    """As `draw`, but the second half holds the numbers of the first, each dimension in an order of
    its own: the same means and variances, other correlations."""
    views = draw()
    generator = torch.Generator().manual_seed(1)
    for view in views:
        for dim in range(DIM):
            view[BATCH:, dim] = view[:BATCH, dim][torch.randperm(BATCH, generator=generator)]
    return views


def value_and_gradient(loss: torch.nn.Module, views: torch.Tensor) -> list[torch.Tensor]:
    """The loss of (2 views, batch, dim) and its gradient, of that shape."""
    views = views.clone().requires_grad_()
    value = loss(*views)
    return [value.detach(), *torch.autograd.grad(value, views)]


def test_arguments_have_lightlys_names_order_and_defaults():
    for method in ("__init__", "forward"):
        ours = inspect.signature(getattr(BarlowTwinsLoss, method)).parameters.values()
        theirs = inspect.signature(getattr(lightly_class(), method)).parameters.values()
        shared = [(p.name, p.default, p.kind) for p in ours][: len(theirs)]
        assert shared == [(p.name, p.default, p.kind) for p in theirs]


@pytest.mark.parametrize(
    "make",
    [
        lambda cls: cls(),
        lambda cls: cls(LAMBDA),
        lambda cls: cls(0.3, False),
        lambda cls: cls(0.3, True),
        lambda cls: cls(gather_distributed=True, lambda_param=LAMBDA),
    ],
    ids=["none", "position", "positions", "gathered alone", "keywords"],
)
def test_one_process(make):
    ours, theirs = make(BarlowTwinsLoss), make(lightly_class())
    assert (ours.lambda_param, ours.gather_distributed) == (
        theirs.lambda_param,
        theirs.gather_distributed,
    )
    torch.testing.assert_close(*(value_and_gradient(loss, draw()) for loss in (ours, theirs)))


def test_views_by_keyword_and_a_weight_that_changes():
    z_a, z_b = draw()
    ours, theirs = BarlowTwinsLoss(), lightly_class()()
    ours.lambda_param = 0.7
    theirs.lambda_param = 0.7  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(ours(z_b=z_b, z_a=z_a), theirs(z_b=z_b, z_a=z_a))


def test_neither_has_a_state():
    assert dict(BarlowTwinsLoss().state_dict()) == dict(lightly_class()().state_dict()) == {}


@pytest.mark.parametrize("cls", [BarlowTwinsLoss, lightly_class()], ids=["ours", "lightly"])
def test_what_both_refuse(cls, monkeypatch):
    with pytest.raises(ValueError, match=r"more than 1 value|at least 2"):
        cls()(torch.ones(1, 4), torch.ones(1, 4))
    monkeypatch.setattr(dist, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"gather_distributed.*torch\.distributed"):
        cls(gather_distributed=True)
    cls(gather_distributed=False)


def on_rank(rank: int) -> dict[str, list[torch.Tensor]]:
    """Value and gradient of this rank's share: rows of its own, or of equal statistics."""
    share = slice(rank * BATCH, (rank + 1) * BATCH)
    results = {}
    for name, views in (("draw", draw()), ("equal", draw_equal_statistics())):
        for gather in (False, True):
            ours, theirs = BarlowTwinsLoss(LAMBDA, gather), lightly_class()(LAMBDA, gather)
            results[f"ours {name} {gather}"] = value_and_gradient(ours, views[:, share])
            results[f"lightly {name} {gather}"] = value_and_gradient(theirs, views[:, share])
    return results


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return run_on_ranks(on_rank, 2, tmp_path_factory.mktemp("ranks"))


@pytest.mark.ranks
def test_without_gathering_two_ranks_have_lightlys_loss(ranks):
    for rank in ranks:
        torch.testing.assert_close(rank["ours draw False"], rank["lightly draw False"])
    assert ranks[0]["ours draw False"][0] != ranks[1]["ours draw False"][0]


@pytest.mark.ranks
def test_gathered_ours_is_lightlys_on_one_rank_with_the_whole_batch(ranks):
    value, gradient = value_and_gradient(lightly_class()(LAMBDA), draw())
    for number, rank in enumerate(ranks):
        share = slice(number * BATCH, (number + 1) * BATCH)
        # times the ranks: DistributedDataParallel takes the mean
        torch.testing.assert_close(rank["ours draw True"], [value, 2 * gradient[:, share]])


@pytest.mark.ranks
def test_gathered_lightlys_is_not(ranks):
    """Standardised rank by rank, it has another value for another number of ranks."""
    value = lightly_class()(LAMBDA)(*draw())
    for rank in ranks:
        assert (rank["lightly draw True"][0] / value - 1).abs() > 0.1


@pytest.mark.ranks
def test_gathered_values_agree_where_statistics_do(ranks):
    for rank in ranks:
        torch.testing.assert_close(rank["ours equal True"][0], rank["lightly equal True"][0])
    # not because the ranks hold the same samples
    assert ranks[0]["ours equal False"][0] != ranks[1]["ours equal False"][0]
