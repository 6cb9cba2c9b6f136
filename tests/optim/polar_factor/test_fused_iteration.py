"""The iteration of a GPU, run on a CPU with products that compute what its kernel does."""

import functools
import math

import pytest
import torch
from helpers.gpu import DEVICE, on_gpu

from sslortho.optim import polar
from sslortho.optim.polar_factor.fused_iteration import iterate_fused
from sslortho.optim.polar_factor.gram_iteration import iterate
from sslortho.optim.polar_factor.iterative import express_schedule
from sslortho.optim.polar_factor.polynomials import newton_schulz_schedule, polar_express_schedule
from sslortho.optim.polar_factor.products import (
    SCALE,
    emulate_three,
    multiply,
    multiply_in_half,
    split,
)

SHAPES = [(1, 5), (8, 8), (16, 300), (300, 16), (64, 80), (64, 576), (128, 128)]
LARGE = [(256, 1024), (256, 2304), (2304, 256), (512, 512)]
SPECTRA = {
    "to 1e-3": lambda n: torch.logspace(0, -3, n),
    "to 1e-6": lambda n: torch.logspace(0, -6, n),
    "one above the others": lambda n: torch.tensor([1.0, *[1.01e-3] * (n - 1)]),
    "halves": lambda n: torch.tensor([1.0] * (n - n // 2) + [1.01e-3] * (n // 2)),
    "low rank": lambda n: torch.logspace(0, -2.9, n) * (torch.arange(n) <= n // 4),
    "orthonormal": torch.ones,
}


@functools.cache
def draw(rows: int, columns: int, spectrum: str, seed: int = 0) -> torch.Tensor:
    """A float32 matrix of known singular values, largest entry one."""
    n, m = sorted((rows, columns))
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        torch.linalg.qr(torch.randn(size, n, generator=generator, dtype=torch.float64))[0]
        for size in (n, m)
    )
    matrix = (left * SPECTRA[spectrum](n)) @ right.mT
    matrix = (matrix / matrix.abs().max()).float()
    return matrix if rows <= columns else matrix.mT.contiguous()


def errors(result: torch.Tensor, matrix: torch.Tensor) -> tuple[float, float, float]:
    """Worst error of length and of direction above 1e-3, and the spectral norm of the error there.

    Against a float64 SVD: `| |Q v| - 1 |`, `|u^T Q v - 1|`.
    """
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    kept = s >= 1e-3 * s[0]
    u, mapped = u[:, kept], result.double() @ vh[kept].mT
    length = (torch.linalg.vector_norm(mapped, dim=0) - 1).abs().max().item()
    direction = ((u * mapped).sum(0) - 1).abs().max().item()
    return length, direction, torch.linalg.matrix_norm(mapped - u, ord=2).item()


def truncating(a, b, *, alpha=1.0, c=None, beta=0.0, gamma=0.0, symmetric=False) -> torch.Tensor:
    """`emulate_three` where sums are cut to float32 after every 16 terms, not rounded.

    Tensor cores are said to do so (Ootomo and Yokota, arXiv 2203.03341, section 3).
    """
    (high_a, low_a), (high_b, low_b) = ([x.double() for x in split(y)] for y in (a, b))
    total = torch.zeros(*a.shape[:-1], b.shape[-1], dtype=torch.float64)
    for k in range(0, a.shape[-1], 16):
        part = slice(k, k + 16)
        for x, y in ((high_a, low_b), (low_a, high_b), (high_a, high_b)):
            total = total + x[..., part] @ y[..., part, :]
            bits = total.view(torch.int64) & ~((1 << 29) - 1)  # 24 of 53 bits
            total = bits.view(torch.float64)
    result = alpha * total / SCALE**2 + (0 if c is None else beta * c)
    result = (result + gamma * torch.eye(*result.shape[-2:])).float()
    return result.tril() + result.tril(-1).mT if symmetric else result


def of_bfloat16(a, b, *, alpha=1.0, c=None, beta=0.0, gamma=0.0, symmetric=False) -> torch.Tensor:
    """`emulate_three` with bfloat16 in place of float16."""
    high_a, high_b = a.bfloat16().float(), b.bfloat16().float()
    low_a, low_b = (a - high_a).bfloat16().float(), (b - high_b).bfloat16().float()
    product = alpha * (high_a @ low_b + low_a @ high_b + high_a @ high_b)
    result = product + (0 if c is None else beta * c) + gamma * torch.eye(*product.shape[-2:])
    return result.tril() + result.tril(-1).mT if symmetric else result


@pytest.mark.parametrize("schedule", [polar_express_schedule, newton_schulz_schedule])
@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (12, 12), (1, 5), (2, 3, 4, 30)], ids=str)
def test_is_the_plain_iteration(shape, schedule):
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(shape, generator=generator, dtype=torch.float64)
    steps = schedule(1e-3, 1e-3)
    expected = iterate(matrices, steps)
    torch.testing.assert_close(
        iterate_fused(matrices, steps, multiply), expected, rtol=0, atol=1e-9
    )
    corrected = iterate_fused(matrices, steps, multiply, last=multiply)
    torch.testing.assert_close(corrected, expected, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 8, 30), (8, 8)], ids=str)
def test_compiles_into_one_graph(shape):
    torch.compiler.reset()
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    steps = express_schedule(matrices)

    def solve(matrices):
        return iterate_fused(matrices, steps, multiply, last=multiply_in_half)

    compiled = torch.compile(solve, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(matrices), solve(matrices), rtol=0, atol=1e-5)


def test_zero_stays_zero():
    matrices = torch.stack([draw(8, 20, "to 1e-3"), torch.zeros(8, 20)])
    result = iterate_fused(matrices, express_schedule(matrices), emulate_three)
    assert result.isfinite().all()
    assert torch.equal(result[1], torch.zeros(8, 20))


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_promise(shape, spectrum):
    """Directions above 1e-3 of the largest within 1e-4 of exact, in length and in direction."""
    matrix = draw(*shape, spectrum)
    length, direction, error = errors(polar(matrix, "polar_express_fp16x3"), matrix)
    assert length <= 1e-4
    assert direction <= 1e-4
    assert error <= 1.2e-3  # what `polar_express` promises in float32


@pytest.mark.slow
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_the_promise_of_large_matrices(shape, spectrum):
    test_the_promise(shape, spectrum)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize(
    "shape", [(16, 300), pytest.param((64, 576), marks=pytest.mark.slow)], ids=str
)
def test_the_promise_bears_sums_that_are_cut(shape, spectrum):
    matrix = draw(*shape, spectrum)
    result = iterate_fused(matrix, express_schedule(matrix), truncating)
    length, direction, _ = errors(result, matrix)
    assert length <= 1e-4
    assert direction <= 1e-4


def test_the_promise_of_a_batch_of_gaussian_and_broken_matrices():
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(4, 30, 70, generator=generator) * torch.tensor([1e-30, 1, 1e30, 1]).view(
        4, 1, 1
    )
    matrices[3, 2, 1] = math.nan
    result = polar(matrices, "polar_express_fp16x3")
    assert result[3].isnan().all()
    for matrix, factor in zip(matrices[:3], result[:3], strict=True):
        assert max(errors(factor, matrix)[:2]) <= 1e-4


def test_bfloat16_would_turn_the_small_directions_further():
    matrix = draw(64, 576, "to 1e-6")
    steps = express_schedule(matrix)
    half = errors(iterate_fused(matrix, steps, emulate_three), matrix)[2]
    brain = errors(iterate_fused(matrix, steps, of_bfloat16), matrix)[2]
    assert brain > 5 * half


def test_mirroring_what_only_commutes_would_turn_them_too():
    """`F G` is symmetric in exact arithmetic; taken for it, it spoils a stage."""

    def mirror_all(a, b, **options):
        square = a.shape[-1] == b.shape[-1] == a.shape[-2]
        return emulate_three(a, b, **(options | ({"symmetric": True} if square else {})))

    matrix = draw(64, 576, "to 1e-3")
    steps = express_schedule(matrix)
    right = errors(iterate_fused(matrix, steps, emulate_three), matrix)[2]
    wrong = errors(iterate_fused(matrix, steps, mirror_all), matrix)[2]
    assert wrong > 2 * right


def test_half_of_the_symmetric_products_are_asked_for():
    """Gram matrices and squares are said to be symmetric, `P A` is not."""
    asked = []

    def record(a, b, **options):
        asked.append((a.shape[-2], a.shape[-1], b.shape[-1], options.get("symmetric", False)))
        return emulate_three(a, b, **options)

    matrix = draw(16, 300, "to 1e-3")
    iterate_fused(matrix, express_schedule(matrix), record)
    assert {symmetric for *sides, symmetric in asked if sides == [16, 300, 16]} == {True}
    assert {symmetric for *sides, symmetric in asked if sides == [16, 16, 300]} == {False}
    small = [symmetric for *sides, symmetric in asked if sides == [16, 16, 16]]
    assert sum(small) > len(small) / 2


@on_gpu
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", [*SHAPES, *LARGE, (1024, 2048)], ids=str)
def test_gpu_keeps_the_promise(shape, spectrum):
    matrix = draw(*shape, spectrum)
    result = polar(matrix.to(DEVICE), "polar_express_fp16x3").cpu()
    length, direction, error = errors(result, matrix)
    assert length <= 1e-4
    assert direction <= 1e-4
    assert error <= 2e-3


@on_gpu
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gpu_plain_products_are_the_cpus(shape):
    matrix = draw(*shape, "to 1e-3")
    for method in ("polar_express", "newton_schulz"):
        expected = polar(matrix, method)
        torch.testing.assert_close(
            polar(matrix.to(DEVICE), method).cpu(), expected, rtol=0, atol=2e-3
        )
