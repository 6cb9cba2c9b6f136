import warnings

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sslortho.losses import BarlowTwinsLoss
from sslortho.losses.barlow_twins import standardise

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # other people's, while they are imported
    import lightly.loss

FORMS = ("correlation", "gram", "auto")
SHAPES = [(2, 1), (2, 5), (7, 3), (16, 16), (5, 40), (64, 12)]


def draw_views(batch: int, dim: int, dtype=torch.float64, seed: int = 0) -> list[torch.Tensor]:
    """Two correlated batches of projections that are leaves, of no particular mean or scale."""
    generator = torch.Generator().manual_seed(seed)
    first, noise = torch.randn(2, batch, dim, generator=generator, dtype=torch.float64)
    views = (3 * first - 2, 0.1 * (first + noise) + 5)
    return [view.to(dtype).requires_grad_() for view in views]


def facebook_loss(z_a: torch.Tensor, z_b: torch.Tensor, lambd: float) -> torch.Tensor:
    """facebookresearch/barlowtwins: batch norm without affine, C over the batch, the two sums."""
    batch, dim = z_a.shape
    batch_norm = nn.BatchNorm1d(dim, affine=False).to(z_a.dtype)
    c = torch.einsum("ni,nj->ij", batch_norm(z_a), batch_norm(z_b)) / batch
    loss = z_a.new_zeros(())
    for i in range(dim):
        for j in range(dim):
            loss = loss + ((c[i, i] - 1) ** 2 if i == j else lambd * c[i, j] ** 2)
    return loss


def value_and_gradients(loss, views) -> tuple[torch.Tensor, ...]:
    value = loss(*views)
    return value.detach(), *torch.autograd.grad(value, views)


@pytest.mark.parametrize("lambda_param", [0.0, 0.0051, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_is_the_published_formula(form, shape, lambda_param):
    views = draw_views(*shape)
    ours = value_and_gradients(BarlowTwinsLoss(lambda_param, form=form), views)
    theirs = value_and_gradients(lambda a, b: facebook_loss(a, b, lambda_param), views)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", [(7, 3), (5, 40), (64, 12)], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_is_lightlys(form, shape):
    views = draw_views(*shape)
    ours = value_and_gradients(BarlowTwinsLoss(0.02, form=form), views)
    theirs = value_and_gradients(lightly.loss.BarlowTwinsLoss(0.02), views)
    torch.testing.assert_close(ours, theirs)


def test_defaults_are_lightlys():
    ours, theirs = BarlowTwinsLoss(), lightly.loss.BarlowTwinsLoss()
    assert ours.lambda_param == theirs.lambda_param
    assert ours.gather_distributed == theirs.gather_distributed


@pytest.mark.parametrize("shape", [(64, 16), (16, 64), (32, 32), (2, 128)], ids=str)
def test_forms_agree_in_float32(shape):
    views = draw_views(*shape, dtype=torch.float32)
    correlation = value_and_gradients(BarlowTwinsLoss(form="correlation"), views)
    gram = value_and_gradients(BarlowTwinsLoss(form="gram"), views)
    torch.testing.assert_close(correlation, gram, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(64, 16), (16, 64), (17, 32), (15, 32), (4, 999)], ids=str)
def test_auto_takes_the_cheaper_form(shape):
    views, operations = draw_views(*shape), {}
    for form in FORMS:
        with FlopCounterMode(display=False) as counter:
            BarlowTwinsLoss(form=form)(*views)
        operations[form] = counter.get_total_flops()
    assert operations["correlation"] != operations["gram"]
    assert operations["auto"] == min(operations.values())


@pytest.mark.parametrize("form", ["correlation", "gram"])
def test_gradient_by_finite_differences(form):
    assert torch.autograd.gradcheck(BarlowTwinsLoss(form=form), draw_views(6, 4))


def test_terms_of_equal_and_of_independent_dimensions():
    """Closed forms: dimensions that are copies have C = 1, orthogonal ones C = identity."""
    column = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    other = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    loss, shrunk = BarlowTwinsLoss(), 1 / (1 + 1e-5)  # what eps takes off a correlation of one
    same, apart = torch.stack([column, column], dim=1), torch.stack([column, other], dim=1)
    invariance, redundancy = loss.terms(same, same)
    assert invariance.item() == pytest.approx(2 * (1 - shrunk) ** 2)
    assert redundancy.item() == pytest.approx(2 * shrunk**2)
    invariance, redundancy = loss.terms(apart, -apart)
    assert invariance.item() == pytest.approx(2 * (1 + shrunk) ** 2)
    assert redundancy.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_input_is_computed_in_float32(dtype, form):
    views = draw_views(32, 12, dtype)
    value, *gradients = value_and_gradients(BarlowTwinsLoss(form=form), views)
    exact = facebook_loss(*(view.double() for view in views), 5e-3)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    assert all(gradient.dtype == dtype for gradient in gradients)


@pytest.mark.parametrize("form", FORMS)
def test_autocast_changes_nothing(form):
    views, loss = draw_views(32, 12, torch.float32), BarlowTwinsLoss(form=form)
    outside = value_and_gradients(loss, views)
    with torch.autocast("cpu", torch.bfloat16):
        assert (views[0] @ views[1].mT).dtype == torch.bfloat16
        value = loss(*views)
    gradients = torch.autograd.grad(value, views)
    torch.testing.assert_close((value.detach(), *gradients), outside, rtol=0, atol=0)


def test_views_of_different_precision():
    a, b = draw_views(32, 12, torch.float32)
    value = BarlowTwinsLoss()(a.bfloat16(), b)
    assert value.item() == pytest.approx(BarlowTwinsLoss()(a.bfloat16().float(), b).item())
    assert value.dtype == torch.float32


@pytest.mark.parametrize("form", FORMS)
def test_constant_dimensions_have_finite_gradients(form):
    views = draw_views(16, 6, torch.float32)
    with torch.no_grad():
        views[0][:, 2] = 7.0
        views[1][:, 2:4] = 0.0
    value, *gradients = value_and_gradients(BarlowTwinsLoss(form=form), views)
    # a constant correlates with nothing: dimensions 2 and 3 each lack all of their diagonal
    assert value.item() >= 2
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("form", FORMS)
def test_scale_and_shift_of_each_dimension_do_not_matter(form):
    a, b = (100 * view for view in draw_views(32, 12))  # variances that dwarf eps
    scale = torch.linspace(2, 50, 12, dtype=torch.float64)
    loss = BarlowTwinsLoss(form=form)
    moved = loss(scale * a + 1e3, scale.flip(0) * b - 50)
    assert moved.item() == pytest.approx(loss(a, b).item(), rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_order_of_the_batch_and_of_the_dimensions_does_not_matter(form):
    a, b = draw_views(32, 12)
    loss, generator = BarlowTwinsLoss(form=form), torch.Generator().manual_seed(1)
    rows, columns = (torch.randperm(n, generator=generator) for n in (32, 12))
    expected = loss(a, b).item()
    assert loss(a[rows], b[rows]).item() == pytest.approx(expected, rel=1e-10)
    assert loss(a[:, columns], b[:, columns]).item() == pytest.approx(expected, rel=1e-10)
    assert loss(b, a).item() == pytest.approx(expected, rel=1e-10)
    assert loss(a[rows], b).item() != pytest.approx(expected, rel=1e-2)  # the pairs are broken


def test_standardise_has_mean_zero_and_biased_variance_one():
    z = standardise(100 * draw_views(32, 5)[0].detach())
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(5, dtype=torch.float64))
    variance = z.var(dim=0, unbiased=False)
    torch.testing.assert_close(variance, torch.ones(5, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BarlowTwinsLoss()(torch.ones(1, 4), torch.ones(1, 4)), "batch of 1 .* at least 2"),
        (lambda: BarlowTwinsLoss()(torch.ones(4), torch.ones(4)), r"\(batch, dim\), got \(4,\)"),
        (
            lambda: BarlowTwinsLoss()(torch.ones(4, 3), torch.ones(4, 2)),
            r"got \(4, 3\) and \(4, 2\)",
        ),
        (lambda: BarlowTwinsLoss()(torch.ones(2, 4, 3), torch.ones(2, 4, 3)), r"\(2, 4, 3\)"),
        (lambda: BarlowTwinsLoss(form="corelation"), "did you mean correlation"),
        (lambda: BarlowTwinsLoss(-1.0), "lambda_param=-1.0 must be 0 or more"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_gather_on_one_rank_is_the_same_loss():
    views = draw_views(16, 6)
    local = value_and_gradients(BarlowTwinsLoss(), views)
    gathered = value_and_gradients(BarlowTwinsLoss(gather_distributed=True), views)
    torch.testing.assert_close(gathered, local, rtol=0, atol=0)
