"""Distance of the loss and its gradient from the exact ones, in 60 digits."""

import mpmath
import pytest
import torch
from helpers.exact_loss import exact_loss, relative_errors
from helpers.ranks import run_on_ranks
from torch import nn

from sslortho.losses import BarlowTwinsLoss
from sslortho.losses.barlow_twins import EPS, SMALL_BATCH, standardise

LAMBDA = 5e-3
BATCHES = (2, 3, SMALL_BATCH, SMALL_BATCH + 1)
BOUNDS = {torch.float32: 1e-6, torch.float64: 2e-14}


def facebook_loss(z_a: torch.Tensor, z_b: torch.Tensor) -> torch.Tensor:
    """facebookresearch/barlowtwins, main.py: batch norm without affine parameters, then C."""
    batch_norm = nn.BatchNorm1d(z_a.shape[1], affine=False).to(z_a.dtype)
    c = batch_norm(z_a).T @ batch_norm(z_b) / len(z_a)
    diagonal = torch.diagonal(c)
    off_diagonal = c - torch.diag(diagonal)
    return (diagonal - 1).square().sum() + LAMBDA * off_diagonal.square().sum()


def draw(batch: int, dim: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch)
    first, noise = torch.randn(2, batch, dim, generator=generator, dtype=torch.float64)
    return first, first + noise


def with_constants(z: torch.Tensor) -> torch.Tensor:
    """The first dimension constant, the second constant but for a millionth, the third zero."""
    z = z.clone()
    z[:, 0], z[:, 1], z[:, 2] = 7.0, 0.1 + 1e-6 * z[:, 1], 0.0
    return z


VIEWS = {
    **{f"scale {s:g}": lambda a, b, s=s: (s * a, s * b) for s in (1e-6, 1e-3, 1, 1e3, 1e6, 1e9)},
    "other scales": lambda a, b: (1e3 * a, 1e-3 * b),
    "equal views": lambda a, b: (a, a),
    "equal views, large": lambda a, b: (1e3 * a, 1e3 * a),
    "opposite views": lambda a, b: (1e3 * a, -1e3 * a),
    "large mean": lambda a, b: (a + 1e3, b - 1e3),
    "large mean, small spread": lambda a, b: (0.01 * a + 1e4, 0.01 * b + 1e4),
    "constants": lambda a, b: (with_constants(a), b),
    "eps": lambda a, b: (EPS**0.5 * a, EPS**0.5 * b),
}

CONDITION = {"opposite views": 1e3, "equal views, large": 10}
"""How many times the terms of the gradient are larger than the gradient: there so much is lost."""


def value_and_gradients(loss, views) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    views = [view.clone().requires_grad_() for view in views]
    value = loss(*views)
    return value.detach(), torch.autograd.grad(value, views)


def errors(loss, views) -> tuple[float, float]:
    return relative_errors(*value_and_gradients(loss, views), exact_loss(*views, LAMBDA))


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("batch", BATCHES)
def test_value_and_gradient_are_the_exact_ones_rounded(batch, name, dtype):
    views = [z.to(dtype) for z in VIEWS[name](*draw(batch))]
    bound = BOUNDS[dtype]
    for form in ("correlation", "gram"):
        value, gradient = errors(BarlowTwinsLoss(LAMBDA, form=form), views)
        assert value < bound
        assert gradient < bound * CONDITION.get(name, 1)


@pytest.mark.parametrize("name", ["scale 1", "scale 1000", "large mean, small spread"])
@pytest.mark.parametrize("dim", [1, 40])
def test_one_dimension_and_many(dim, name):
    views = [z.float() for z in VIEWS[name](*draw(2, dim))]
    value, gradients = value_and_gradients(BarlowTwinsLoss(LAMBDA), views)
    true_value, true_gradients = exact_loss(*views, LAMBDA)
    # absolutely: one dimension whose views agree has a loss of (eps / variance)^2
    assert abs(value.item() - true_value) < 3e-7 * max(1, true_value)
    scale = max(abs(x) for x in true_gradients[0].flat)
    for ours, true in zip(gradients[0].flatten().tolist(), true_gradients[0].flat, strict=True):
        # C - 1 is 1e-11 of C there, so float64 knows five digits of it
        assert abs(ours - true) < (1e-5 if dim == 1 else 3e-7) * scale


def test_the_published_code_is_further_from_the_truth():
    """A batch of 2 at scale 1e3: the gradient of batch norm is rounding noise."""
    views = [1e3 * z.float() for z in draw(2)]
    assert errors(facebook_loss, views)[1] > 1
    assert errors(BarlowTwinsLoss(LAMBDA), views)[1] < 1e-7
    views = [z.double() for z in views]
    assert errors(facebook_loss, views)[1] > 1e-9
    assert errors(BarlowTwinsLoss(LAMBDA), views)[1] < 1e-14


def test_the_exact_gradient_is_that_of_finite_differences():
    views = [1e3 * z for z in draw(2, 3)]
    _, gradients = exact_loss(*views, LAMBDA)
    view, step = views[0], 2.0**-20
    for row, column in ((0, 0), (1, 2)):
        sides = []
        for sign in (1, -1):
            moved = view.clone()
            moved[row, column] += sign * step
            sides.append(exact_loss(moved, views[1], LAMBDA)[0])
        with mpmath.workdps(60):
            slope = (sides[0] - sides[1]) / (2 * mpmath.mpf(step))
            assert abs(slope / gradients[0][row, column] - 1) < 1e-12


@pytest.mark.parametrize("scale", [1e20, 1e30])
@pytest.mark.parametrize("batch", [2, 3, SMALL_BATCH])
def test_squares_beyond_float32_do_no_harm_in_small_batches(batch, scale):
    views = [scale * z.float() for z in draw(batch)]
    exact, _ = exact_loss(*views, LAMBDA)
    assert BarlowTwinsLoss(LAMBDA)(*views).item() == pytest.approx(float(exact), rel=3e-7)


def test_squares_beyond_float32_are_no_plausible_number_in_large_batches():
    value, gradients = value_and_gradients(BarlowTwinsLoss(), [1e20 * z.float() for z in draw(64)])
    assert value.isnan()
    assert all(gradient.isnan().all() for gradient in gradients)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("batch", [2, 3, 64])
def test_views_that_are_not_finite_have_no_loss(batch, value):
    a, b = draw(batch)
    a[1, 2] = value
    assert BarlowTwinsLoss()(a, b).isnan()


def test_a_pair_is_standardised_as_any_batch():
    """On both sides of the switch at sqrt(eps), and at it, with a derivative that is continuous."""
    half = EPS**0.5 * torch.tensor([0.0, 0.5, 0.999999, 1.0, 1.000001, 2.0, -1.0, -3.0]).double()
    z = torch.stack([5 + half, 5 - half]).requires_grad_()
    expected = half / (half.square() + EPS).sqrt()
    torch.testing.assert_close(
        standardise(z), torch.stack([expected, -expected]), atol=1e-11, rtol=0
    )
    (slope,) = torch.autograd.grad(standardise(z)[0].sum(), z)
    exact = EPS / (half.square() + EPS) ** 1.5 / 2
    torch.testing.assert_close(slope, torch.stack([exact, -exact]), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("batch", [2, 3, 20])
def test_second_derivatives(batch):
    views = [z.requires_grad_() for z in draw(batch, 3)]
    assert torch.autograd.gradgradcheck(BarlowTwinsLoss(), views)


@pytest.mark.parametrize("batch", [2, 3, 40])
def test_small_batches_keep_the_precision_of_their_input(batch):
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float32, torch.float32)):
        value, gradients = value_and_gradients(
            BarlowTwinsLoss(), [z.to(dtype) for z in draw(batch)]
        )
        assert value.dtype == expected
        assert {gradient.dtype for gradient in gradients} == {dtype}


def gathered_on_rank(rank: int, rows: int) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    share = slice(rank * rows, (rank + 1) * rows)
    views = [1e3 * z[share].float() for z in draw(2 * rows)]
    return value_and_gradients(BarlowTwinsLoss(LAMBDA, gather_distributed=True), views)


@pytest.mark.ranks
@pytest.mark.parametrize("rows", [1, 2, 20])
def test_gathered_over_ranks_it_is_as_exact(rows, tmp_path):
    """One sample a rank too: together they are a batch of two."""
    ranks = run_on_ranks(gathered_on_rank, 2, tmp_path, rows)
    exact = exact_loss(*(1e3 * z.float() for z in draw(2 * rows)), LAMBDA)
    # times the ranks: DistributedDataParallel takes the mean
    gradients = tuple(torch.cat(parts) / 2 for parts in zip(*(g for _, g in ranks), strict=True))
    for value, _ in ranks:
        assert max(relative_errors(value, gradients, exact)) < BOUNDS[torch.float32]
