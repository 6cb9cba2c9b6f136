"""Muon's five steps, against torch.optim.Muon's own function and its polynomial."""

import pytest
import torch
from helpers.matrices import with_singular_values

from sslortho.optim import OrthSGD, orthonormalise_, polar

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
SHAPES = [(4, 6), (6, 4), (5, 5), (24, 90), (1, 9), (9, 1)]


def torchs_muon(matrices: torch.Tensor) -> torch.Tensor:
    module = pytest.importorskip("torch.optim._muon", reason="Muon came with torch 2.9")
    function = module._zeropower_via_newtonschulz
    return torch.stack([function(m.clone(), COEFFICIENTS, 5, 1e-7) for m in matrices])


def draw(*shape, scale=1.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * scale


def polynomial(values: torch.Tensor) -> torch.Tensor:
    a, b, c = COEFFICIENTS
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    return values


@pytest.mark.parametrize("scale", [1.0, 3e-3, 700.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bfloat16_is_torchs(shape, scale):
    matrices = draw(3, *shape, scale=scale)
    expected = torchs_muon(matrices).float()
    # two units in the last place of bfloat16 at one; the same bits where a batch is multiplied as one
    torch.testing.assert_close(polar(matrices, "muon_bf16"), expected, rtol=0, atol=2**-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32_is_torchs_code_in_float32(shape, monkeypatch):
    matrices = draw(3, *shape, scale=3e-3)
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    expected = torchs_muon(matrices)
    torch.testing.assert_close(polar(matrices, "muon"), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (5, 5)], ids=str)
def test_singular_values_go_through_the_polynomial(shape):
    values = torch.tensor([1.0, 0.5, 0.1, 0.01, 1e-4], dtype=torch.float64)
    matrix = with_singular_values(*shape, values.tolist())
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    expected = u @ torch.diag(polynomial(s / s.norm())) @ vh
    torch.testing.assert_close(polar(matrix, "muon"), expected, rtol=0, atol=1e-10)


def test_the_promise_of_the_documentation():
    reached = polynomial(torch.logspace(-3, 0, 100_000, dtype=torch.float64).clamp(min=0.00151))
    assert reached.min() >= 0.68
    assert reached.max() <= 1.203
    assert polynomial(torch.tensor(0.0014)) < 0.68


@pytest.mark.parametrize("method", ["muon", "muon_bf16"])
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e36])
def test_scale_does_not_matter(method, scale):
    """A power of two is divided out first: then the bits are the same."""
    matrices = draw(2, 4, 6)
    power = 2.0 ** torch.tensor(scale).log2().floor().item()
    assert torch.equal(polar(matrices * power, method), polar(matrices, method))


@pytest.mark.parametrize("method", ["muon", "muon_bf16"])
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
def test_zero_and_broken_matrices_are_as_with_every_method(method, dtype):
    matrices = draw(4, 3, 5).to(dtype)
    matrices[1] = 0
    matrices[2, 0, 0] = torch.nan
    matrices[3, 1, 1] = torch.inf
    result = polar(matrices, method)
    assert result.dtype == dtype
    assert torch.equal(result[1], torch.zeros_like(result[1]))
    assert result[2:].isnan().all()
    torch.testing.assert_close(result[0], polar(matrices[0], method))


@pytest.mark.parametrize("method", ["muon", "muon_bf16"])
def test_gradients_take_it_too(method):
    weight = torch.nn.Parameter(draw(4, 2, 3))
    gradient = draw(4, 2, 3) + 1
    expected = polar(gradient.flatten(1), method).view(4, 2, 3)
    weight.grad = gradient.clone()
    orthonormalise_(weight, method)
    torch.testing.assert_close(weight.grad, expected, rtol=0, atol=2**-7)
    weight.grad, before = gradient.clone(), weight.detach().clone()
    OrthSGD([weight], lr=1.0, polar=method).step()
    torch.testing.assert_close(weight.detach(), before - expected, rtol=0, atol=2**-7)


@pytest.mark.parametrize("method", ["muon", "muon_bf16"])
def test_a_rank_tolerance_has_no_effect(method):
    with pytest.raises(ValueError, match=f"rank_tol=0.1 has no effect on polar='{method}'"):
        polar(torch.ones(2, 2), method, rank_tol=0.1)
