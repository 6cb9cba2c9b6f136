"""SIGReg and the LeJEPA loss beside closed forms, fine quadrature, and figures of the authors' code."""

import math

import pytest
import torch
from helpers.ranks import run_on_ranks
from scipy.integrate import quad
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sslortho.losses import LeJEPALoss, SIGReg, draw_slices
from sslortho.losses.sigreg import epps_pulley, epps_pulley_exact, epps_pulley_reference

SHAPES = [(1, 1), (7, 3), (4, 9, 5), (2, 3, 8, 2)]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def patterned(n=24, dim=8):
    """Numbers (n, dim) that need no generator."""
    return (torch.arange(n * dim).reshape(n, dim) ** 2 % 17 / 8 - 1) * 1.5


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0])
def test_the_closed_form_is_the_integral(scale):
    x = scale * draw(9, seed=1) + 0.3

    def integrand(t):
        found = torch.exp(1j * t * x).mean()
        return abs(complex(found) - math.exp(-(t**2) / 2)) ** 2 * math.exp(-(t**2) / 2)

    expected = 9 * quad(integrand, -12, 12, epsabs=1e-11, limit=200)[0]
    assert float(epps_pulley_exact(x[:, None])) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("scale", "rtol"), [(0.0, 1e-5), (0.3, 1e-5), (1.0, 1e-3), (1.5, 2e-2)])
def test_the_published_quadrature_is_near_the_integral(scale, rtol):
    """With knots 0.625 apart, two samples at a distance of 2 pi / 0.625 = 10 count as the same."""
    x = scale * draw(40, 6)
    torch.testing.assert_close(epps_pulley_reference(x), epps_pulley_exact(x), rtol=rtol, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_half_of_the_knots_and_angle_addition_change_nothing(shape):
    ours, theirs = (2 * draw(*shape) for _ in range(2))
    ours.requires_grad_()
    theirs.requires_grad_()
    weights = draw(*epps_pulley(ours).shape, seed=5)
    for function, x in ((epps_pulley, ours), (epps_pulley_reference, theirs)):
        (function(x) * weights).sum().backward()
    torch.testing.assert_close(epps_pulley(ours), epps_pulley_reference(theirs))
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize(("limit", "points"), [(3.0, 33), (2.0, 3), (7.0, 41)])
def test_other_limits_and_knots_are_those_of_the_quadrature(limit, points):
    x = 2 * draw(9, 5)
    expected = epps_pulley_reference(x, limit, points)
    torch.testing.assert_close(epps_pulley(x, limit=limit, points=points), expected)
    assert not torch.allclose(epps_pulley_reference(x), expected, rtol=1e-3)


def test_its_gradient_is_that_of_differences():
    assert torch.autograd.gradcheck(epps_pulley, draw(5, 3).requires_grad_())


def test_float32_has_its_digits():
    x = 3 * draw(64, 50)
    torch.testing.assert_close(
        epps_pulley(x.float()).double(), epps_pulley(x), rtol=1e-5, atol=1e-6
    )


def test_of_a_gaussian_it_is_what_sampling_leaves_and_of_zeros_what_it_can_be():
    """The mean is the integral of (1 - exp(-t^2)) exp(-t^2 / 2): a mean of n has variance (1 - f^2) / n."""
    expected = math.sqrt(2 * math.pi) - math.sqrt(2 * math.pi / 3)
    for n in (4, 32):
        found = epps_pulley(draw(n, 4000))
        assert float(found.mean()) == pytest.approx(expected, abs=0.06)
    zeros = math.sqrt(2 * math.pi) - math.sqrt(4 * math.pi) + math.sqrt(2 * math.pi / 3)
    assert float(epps_pulley(torch.zeros(50, 1).double())) == pytest.approx(50 * zeros, rel=1e-4)


@pytest.mark.parametrize(
    ("step", "theirs"), [(0, 1.1226122379302979), (1, 1.0825846195220947), (2, 0.9669399857521057)]
)
def test_the_figures_are_those_of_the_authors_code(step, theirs):
    """Computed with rbalestr-lab/lejepa at eddffdd (December 2025), on a CPU with torch 2.14:
    SlicingUnivariateTest(EppsPulley(t_max=5, n_points=9), num_slices=64)(patterned()), three times."""
    slices = draw_slices(step, 8, 64)
    assert float(SIGReg()(patterned(), slices)) == pytest.approx(theirs, rel=2e-6)


def test_the_default_figure_of_the_authors_code():
    """As above, with EppsPulley(), which has 17 knots from 0 to 3."""
    found = SIGReg(limit=3.0, points=33)(patterned(), draw_slices(0, 8, 64))
    assert float(found) == pytest.approx(1.1096357107162476, rel=2e-6)


def test_slices_have_length_1_and_depend_on_the_step_alone():
    slices = draw_slices(7, 5, 300)
    torch.testing.assert_close(slices.square().sum(dim=0), torch.ones(300))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(draw_slices(7, 5, 300), slices)
    assert not torch.equal(draw_slices(8, 5, 300), slices)
    assert torch.equal(torch.get_rng_state(), before)
    assert float(slices.mean(dim=1).abs().max()) < 4 / math.sqrt(5 * 300)


def test_lejepa_weighs_the_distance_to_the_centre_of_global_views_and_sigreg():
    z, slices = draw(4, 12, 5), draw_slices(3, 5, 9)
    centre = (z[0] + z[1]) / 2
    distance = sum(((view - centre) ** 2).mean() for view in z) / 4
    sigreg = sum(SIGReg()(view, slices) for view in z) / 4
    found = LeJEPALoss(0.3)(z, slices, global_views=2)
    torch.testing.assert_close(found, 0.7 * distance + 0.3 * sigreg)
    of_all = LeJEPALoss(0.0)(z, slices)
    torch.testing.assert_close(of_all, z.var(dim=0, unbiased=False).mean())


def test_wrong_values():
    with pytest.raises(ValueError, match=r"lambda_param=1\.5 must be from 0 to 1"):
        LeJEPALoss(1.5)
    with pytest.raises(ValueError, match=r"z of shape \(4, 5\) must be \(views, batch, dim\)"):
        LeJEPALoss()(draw(4, 5), draw_slices(0, 5, 3))
    with pytest.raises(ValueError, match=r"slices of shape \(6, 3\) \(dim, number\)"):
        LeJEPALoss()(draw(2, 4, 5), draw_slices(0, 6, 3))
    with pytest.raises(ValueError, match=r"limit=0 must be above 0"):
        SIGReg(limit=0)
    for points in (1, 16):
        with pytest.raises(ValueError, match=rf"points={points} must be odd, and 3 or more"):
            SIGReg(points=points)


BATCH = 12


class Views(nn.Module):
    """A small network, and the loss of three views (3, batch, 4)."""

    def __init__(self, gather):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 5)).double()
        self.loss = LeJEPALoss(0.4, gather_distributed=gather)

    def forward(self, x):
        return self.loss(self.network(x), draw_slices(2, 5, 30), 2)


def backward(views, x):
    loss = views(x)
    loss.backward()
    return loss.detach(), [p.grad for p in views.parameters()]


def on_rank(rank, world_size):
    share = BATCH // world_size
    x = draw(3, BATCH, 4)[:, rank * share : (rank + 1) * share]
    loss, gradients = backward(DistributedDataParallel(Views(True)), x)
    torch.distributed.all_reduce(loss)
    return loss / world_size, gradients


@pytest.mark.ranks
def test_ranks_together_have_the_loss_and_gradient_of_one(tmp_path):
    world_size = 3
    expected = backward(Views(False), draw(3, BATCH, 4))
    for rank in run_on_ranks(on_rank, world_size, tmp_path, world_size):
        torch.testing.assert_close(rank, expected)
    apart = backward(Views(False), draw(3, BATCH, 4)[:, : BATCH // world_size])
    assert not torch.allclose(apart[0], expected[0])


def test_the_defaults_of_the_process_do_not_change_the_slices():
    expected = draw_slices(3, 5, 4)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = draw_slices(3, 5, 4)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
