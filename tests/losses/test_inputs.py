"""All public losses: autocast and half precision change nothing, and bad input is told by its name."""

import math

import pytest
import torch

from sslortho.losses import (
    BarlowTwinsLoss,
    EMPSSLLoss,
    LeJEPALoss,
    NTXentLoss,
    SIGReg,
    VICRegLoss,
    draw_slices,
)

SLICES = draw_slices(0, 48, 32)
LOSSES = {
    "barlow_twins": lambda z: BarlowTwinsLoss()(*z),
    "ntxent": lambda z: NTXentLoss(0.1)(*z),
    "vicreg": lambda z: VICRegLoss()(*z),
    "emp_ssl": EMPSSLLoss(),
    "emp_ssl with float64": EMPSSLLoss(eps=1e-3),
    "sigreg": lambda z: SIGReg()(z, SLICES),
    "lejepa": lambda z: LeJEPALoss()(z, SLICES, 1),
}


def draw(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("name", LOSSES)
def test_autocast_and_half_precision_change_nothing_but_the_rounding_of_the_gradient(name, dtype):
    ours = (3 * draw(2, 24, 48, dtype=dtype)).requires_grad_()
    theirs = ours.detach().to(torch.promote_types(dtype, torch.float32)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = LOSSES[name](ours)
    expected = LOSSES[name](theirs)
    assert torch.equal(found, expected)
    assert found.dtype == theirs.dtype
    found.backward()
    expected.backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad.to(dtype), rtol=0, atol=0)


def test_views_of_two_precisions_have_the_wider():
    z_a, z_b = draw(2, 8, 16).double()
    for loss in (BarlowTwinsLoss(), NTXentLoss(), VICRegLoss()):
        expected = loss(z_a, z_b.bfloat16().double())
        assert torch.equal(loss(z_a, z_b.bfloat16()), expected)


PAIRS = (BarlowTwinsLoss, NTXentLoss, VICRegLoss)
MISTAKES = [
    *[
        (lambda cls=cls, shapes=shapes: cls()(*(draw(*shape) for shape in shapes)), message)
        for cls in PAIRS
        for shapes, message in (
            (((8, 16), (8, 1)), r"z_a and z_b must both be \(batch, dim\), got \(8, 16\) and \(8, 1\)"),
            (((8, 16), (4, 16)), r"got \(8, 16\) and \(4, 16\)"),
            (((16,), (16,)), r"got \(16,\) and \(16,\)"),
            (((1, 16), (1, 16)), "a batch of 1 has no .*; give at least 2 samples"),
            (((0, 16), (0, 16)), r"a batch of 0 has no .*; give at least 2 samples"),
            (((8, 0), (8, 0)), r"one dimension or more, got .* of shape \(8, 0\)"),
        )
    ],
    *[
        (lambda cls=cls: cls()(draw(4, 3).int(), draw(4, 3).int()), "z_a and z_b must both be real floating")
        for cls in PAIRS
    ],
    *[
        (lambda cls=cls: cls()(draw(4, 3), draw(4, 3).to("meta")), "one device that holds numbers, got cpu")
        for cls in PAIRS
    ],
    (lambda: NTXentLoss(math.inf), "temperature=inf must be above 0, and finite"),
    (lambda: NTXentLoss(math.nan), "temperature=nan must be above 0, and finite"),
    (lambda: VICRegLoss(invariance=math.nan), "invariance=nan must be 0 or more, and finite"),
    (lambda: VICRegLoss(variance=-1.0), "variance=-1.0 must be 0 or more, and finite"),
    (lambda: VICRegLoss(covariance=math.inf), "covariance=inf must be 0 or more, and finite"),
    (lambda: BarlowTwinsLoss(math.inf), "lambda_param=inf must be 0 or more, and finite"),
    (lambda: EMPSSLLoss(similarity=math.nan), "similarity=nan must be 0 or more, and finite"),
    (lambda: EMPSSLLoss(coding_rate=-1.0), "coding_rate=-1.0 must be 0 or more, and finite"),
    (lambda: EMPSSLLoss(eps=math.inf), "eps=inf must be above 0, and finite"),
    (lambda: EMPSSLLoss()(draw(2, 0, 4)), r"z of shape \(2, 0, 4\) has no samples"),
    (lambda: EMPSSLLoss()(draw(2, 3, 4).long()), "z must be real floating .* got torch.int64"),
    (lambda: SIGReg(limit=math.inf), "limit=inf must be above 0, and finite"),
    (lambda: SIGReg()(draw(48), SLICES), r"z of shape \(48,\) must be \(..., batch, dim\)"),
    (lambda: SIGReg()(draw(3, 5), SLICES), r"slices of shape \(48, 32\) \(dim, number\)"),
    (lambda: SIGReg()(draw(0, 48), SLICES), r"z of shape \(0, 48\) has no samples"),
    (lambda: LeJEPALoss(math.nan), "lambda_param=nan must be from 0 to 1"),
    (lambda: LeJEPALoss()(draw(2, 3, 48), SLICES[:, 0]), r"slices of shape \(48,\) \(dim, number\)"),
    *[
        (lambda n=n: LeJEPALoss()(draw(2, 3, 48), SLICES, n),
         f"global_views={n} must be from 1 to the number of views, 2; leave it out")
        for n in (0, -1, 3)
    ],
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), MISTAKES)
def test_mistakes_are_value_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
