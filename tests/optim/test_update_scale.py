"""The length of updates, against the sources' formulas."""

import importlib

import pytest
import torch
from helpers.torch_muon import TORCHS, skip_without_muon

from sslortho.optim.update_scale import SCALES, normalise_rows_, update_scale

SIDES = [(4, 9), (9, 4), (5, 5), (1, 9), (64, 1)]


@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize("scale", TORCHS)
def test_factors_are_those_of_torchs_muon(scale, sides):
    skip_without_muon(scale)
    module = importlib.import_module("torch.optim._muon")
    expected = module._adjust_lr(1.0, TORCHS[scale], torch.Size(sides))
    assert update_scale(*sides, scale) == expected


def test_factors_on_numbers():
    assert {s: update_scale(16, 4, s) for s in SCALES} == {
        "none": 1, "muon": 2, "moonlight": 0.8, "spectral": 2,
    }  # fmt: skip
    assert {s: update_scale(4, 16, s) for s in SCALES} == {
        "none": 1, "muon": 1, "moonlight": 0.8, "spectral": 0.5,
    }  # fmt: skip


def orthonormal(rows, columns) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    matrix = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


@pytest.mark.parametrize("sides", SIDES[:3], ids=str)
def test_moonlights_update_has_a_root_mean_square_of_a_fifth(sides):
    update = orthonormal(*sides) * update_scale(*sides, "moonlight")
    assert update.square().mean().sqrt().item() == pytest.approx(0.2)


@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_the_spectral_update_keeps_the_root_mean_square_of_its_input(sides):
    """At most, and exactly for the best input: the norm of Scion's section 3.1."""
    rows, columns = sides
    update = orthonormal(rows, columns) * update_scale(rows, columns, "spectral")
    best = torch.linalg.svd(update)[2][0] * columns**0.5  # root mean square one
    assert (update @ best).square().mean().sqrt().item() == pytest.approx(1)


def normuon(factors, beta, steps):
    """NorMuon's algorithm 1 in the authors' form: row by row, matrix by matrix, in plain Python."""
    rows = factors[0].shape[0]
    v, results = [0.0] * rows, []
    for factor in factors[:steps]:
        result = torch.empty_like(factor)
        for i in range(rows):
            mean = sum(x * x for x in factor[i].tolist()) / factor.shape[1]
            v[i] = beta * v[i] + (1 - beta) * mean
            result[i] = factor[i] / (v[i] ** 0.5 + 1e-10)
        results.append(result * factor.norm() / result.norm())
    return results


@pytest.mark.parametrize("sides", [(4, 9), (9, 4)], ids=str)
def test_rows_are_those_of_normuon(sides):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(3, 2, *sides, generator=generator, dtype=torch.float64)
    moment = torch.zeros(2, sides[0], 1, dtype=torch.float64)
    expected = [normuon(list(drawn[:, k]), 0.9, 3) for k in range(2)]
    for step in range(3):
        matrices = drawn[step].clone()
        normalise_rows_(matrices, moment, 0.9)
        for k in range(2):
            torch.testing.assert_close(matrices[k], expected[k][step])


def test_papers_rule_is_ours_with_moonlights_scale():
    """Its update has Frobenius norm 0.2 sqrt(rows columns)."""
    factor = orthonormal(4, 9)[None].clone()
    normalise_rows_(factor, torch.zeros(1, 4, 1, dtype=torch.float64), 0.95)
    norm = (factor * update_scale(4, 9, "moonlight")).norm().item()
    assert norm == pytest.approx(0.2 * 6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_float32_rounded(dtype):
    drawn = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(1)).mul(1e-4).to(dtype)
    moments = [torch.zeros(2, 4, 1) for _ in range(2)]
    half, exact = drawn.clone(), drawn.float()
    normalise_rows_(half, moments[0], 0.9)
    normalise_rows_(exact, moments[1], 0.9)
    assert torch.equal(half, exact.to(dtype))
    assert torch.equal(*moments)


def test_zero_stays_zero():
    matrices = torch.zeros(1, 3, 4)
    normalise_rows_(matrices, torch.zeros(1, 3, 1), 0.95)
    assert torch.equal(matrices, torch.zeros(1, 3, 4))
