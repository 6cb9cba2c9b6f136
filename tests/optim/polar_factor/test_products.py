import pytest
import torch

from sslortho.optim.polar_factor.products import (
    SCALE,
    emulate_three,
    multiply,
    multiply_in_half,
    split,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 8


def literal(a, b, alpha, c, beta, gamma) -> torch.Tensor:
    result = alpha * torch.einsum("nij,njk->nik", a.double(), b.double())
    if c is not None:
        result = result + beta * c.double()
    return result + gamma * torch.eye(result.shape[-2], result.shape[-1], dtype=torch.float64)


@pytest.mark.parametrize(
    ("function", "allowed"), [(multiply, 1e-6), (emulate_three, 1e-6), (multiply_in_half, 2e-3)]
)
@pytest.mark.parametrize("with_c", [False, True])
@pytest.mark.parametrize(("alpha", "gamma"), [(1.0, 0.0), (-1.5, 0.25)])
def test_is_what_it_says(function, allowed, with_c, alpha, gamma):
    a, b = draw(3, 17, 40), draw(3, 40, 17, seed=1)
    c = draw(3, 17, 17, seed=2) if with_c else None
    before = [x.clone() for x in (a, b, c) if x is not None]
    result = function(a, b, alpha=alpha, c=c, beta=-0.5, gamma=gamma)
    expected = literal(a, b, alpha, c, -0.5, gamma)
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=allowed)
    assert all(map(torch.equal, before, [x for x in (a, b, c) if x is not None]))


def test_float64_stays_float64():
    a, b = draw(2, 5, 7).double(), draw(2, 7, 5).double()
    expected = literal(a, b, 2.0, None, 0.0, 1.0)
    torch.testing.assert_close(multiply(a, b, alpha=2.0, gamma=1.0), expected, rtol=0, atol=1e-14)


def test_two_float16_numbers_keep_22_bits():
    numbers = draw(20_000).clamp(-1, 1)
    high, low = split(numbers)
    for part in (high, low):
        assert torch.equal(part, part.half().float())
    lost = (SCALE * numbers.double() - high.double() - low.double()).abs()
    # half of the last place of `low`, which is the smallest of float16 where the number is small
    assert (
        lost <= torch.maximum(SCALE * numbers.double().abs() * 2**-22, torch.tensor(2.0**-25))
    ).all()


def test_the_largest_entries_of_an_iteration_are_in_range():
    a = torch.tensor([[[1023.0]]])
    torch.testing.assert_close(emulate_three(a, a), a * a, rtol=1e-6, atol=0)


def test_one_float16_number_would_not_do():
    a = draw(1, 30, 200)
    exact = a.double() @ a.double().mT
    three = (emulate_three(a, a.mT) - exact).abs().max()
    one = (multiply_in_half(a, a.mT) - exact).abs().max()
    assert three < 3e-6 < 1e-4 < one


def test_symmetric_results_are_symmetric_to_the_bit():
    a, c = draw(2, 9, 30), draw(2, 9, 9)
    result = emulate_three(a, a.mT, c=c + c.mT, beta=0.3, gamma=0.1, symmetric=True)
    assert torch.equal(result, result.mT)
    torch.testing.assert_close(
        result.double(), literal(a, a.mT, 1.0, c + c.mT, 0.3, 0.1), rtol=0, atol=1e-6
    )
