"""Matrices of low rank, whose factor on a CPU comes from a smaller eigenproblem."""

import numpy as np
import pytest
import torch
from helpers.matrices import nearest_orthonormal, random_orthogonal, well_conditioned

from sslortho.optim import polar
from sslortho.optim.polar_factor import Matrices, decompositions, low_rank, solve
from sslortho.optim.polar_factor.decompositions import default_rank_tol, polar_gram_eigh

WIDE = (288, 480)


def of_rank(
    rank: int, rows: int = 288, columns: int = 480, smallest: float = 1e-2, seed: int = 0
) -> torch.Tensor:
    """A float32 matrix with singular values from 1 to `smallest`, and what rounding makes of the others."""
    left = random_orthogonal(rows, seed)[:, :rank]
    right = random_orthogonal(columns, seed + 1)[:rank]
    values = torch.from_numpy(np.geomspace(1, smallest, rank))
    return ((left * values) @ right).float()


def partial_isometry(matrices: torch.Tensor) -> torch.Tensor:
    """The factor by a float64 SVD without what is rounding noise in float32."""
    rows, columns = matrices.shape[-2:]
    return nearest_orthonormal(matrices, default_rank_tol(rows, columns, torch.float32))


def distance(result: torch.Tensor, matrices: torch.Tensor) -> float:
    """Largest spectral norm of the error of polar factors."""
    error = result.double() - partial_isometry(matrices)
    return torch.linalg.matrix_norm(error, ord=2).max().item()


@pytest.fixture
def ranks(monkeypatch):
    """Ranks at which the small problem was taken; None where it was not."""
    found: list[int | None] = []
    original = low_rank.low_rank_eigh

    def record(*arguments):
        pairs = original(*arguments)
        found.append(None if pairs is None else len(pairs[0]))
        return pairs

    monkeypatch.setattr(decompositions, "low_rank_eigh", record)
    return found


@pytest.mark.parametrize("tall", [False, True])
@pytest.mark.parametrize("rank", [1, 30, 143, 160])
def test_low_rank_gives_the_partial_isometry(rank, tall, ranks):
    """Two thin products up to half the rows, a square one beyond."""
    matrix = of_rank(rank)
    matrix = matrix.mT.contiguous() if tall else matrix
    result = polar(matrix)
    assert ranks == [rank]
    assert result.shape == matrix.shape
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    assert distance(result, matrix) <= 2e-5
    lengths = torch.linalg.svdvals(result.double())
    assert lengths[rank:].max() <= 1e-5  # directions that do not count go to zero
    assert (lengths[:rank] - 1).abs().max() <= 2e-5


@pytest.mark.parametrize("smallest", [1e-1, 1e-3, 2e-4])
def test_the_answer_is_that_of_the_whole_matrix(smallest, ranks, monkeypatch):
    matrix = of_rank(120, smallest=smallest)
    small = polar(matrix)
    monkeypatch.setattr(decompositions, "low_rank_eigh", lambda *arguments: None)
    whole = polar(matrix)
    assert ranks == [120]
    # each rounds a direction of relative size s by about eps / s
    assert torch.linalg.matrix_norm(small - whole, ord=2) <= 20 * 1.2e-7 / smallest


def test_documented_error_above_a_thousandth(ranks):
    """`factor` says 1e-5 where directions down to below 1e-4 of the largest are kept."""
    matrix = of_rank(110, smallest=7e-5)
    u, s, vt = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    kept = s >= 1e-3 * s[0]
    error = polar(matrix).double().numpy() - u[:, :110] @ vt[:110]
    assert ranks == [110]
    assert np.linalg.norm(u[:, kept].T @ error @ vt[kept].T, 2) <= 1e-5


@pytest.mark.parametrize("scale", [1e-35, 1e-20, 1e20, 1e36])
def test_scale_does_not_matter(scale, ranks):
    matrix = of_rank(100, smallest=0.1)
    result = polar((matrix.double() * scale).float())
    assert ranks == [100]
    assert distance(result, matrix) <= 1e-4


def test_a_layer_whose_rows_repeat_or_are_dead(ranks):
    """Rows of zeros, and each other row twice."""
    matrix = of_rank(60)
    matrix[::7] = 0
    matrix[1::2] = matrix[::2]
    result = polar(matrix)
    assert ranks == [60]
    assert distance(result, matrix) <= 5e-5
    assert result[0].abs().max() <= 1e-6
    assert (result[2] - result[3]).abs().max() <= 1e-6


def test_a_rank_that_only_the_last_rows_hold_takes_the_whole_matrix(ranks):
    matrix = of_rank(100)
    matrix[:200] = matrix[:1]
    result = polar(matrix)
    assert ranks == [None]
    assert distance(result, matrix) <= 1e-4


@pytest.mark.parametrize(
    "matrix",
    [
        well_conditioned(*WIDE).float(),
        of_rank(280),
        of_rank(100) + 1e-3 * well_conditioned(*WIDE, seed=4).float(),
        torch.from_numpy(np.random.default_rng(0).standard_normal(WIDE)).float(),
    ],
    ids=["full rank", "nearly full", "noise that counts", "Gaussian"],
)
def test_other_matrices_are_decomposed_whole(matrix, ranks):
    result = polar(matrix)
    assert ranks == [None]
    assert distance(result, matrix) <= 1e-4


def test_a_small_direction_that_counts_is_never_left_out(ranks):
    """A direction just above rank_tol becomes one, a direction far below it zero, at any place."""
    rank_tol = 1e-3
    left, right = random_orthogonal(WIDE[0], 2), random_orthogonal(WIDE[1], 3)
    for above in (1.5, 4.0):
        values = torch.cat([torch.ones(90), torch.tensor([above * rank_tol, 1e-9])]).double()
        matrix = ((left[:, :92] * values) @ right[:92]).float()
        result = polar_gram_eigh(matrix, rank_tol).double()
        gains = ((left.mT @ result) * right[: WIDE[0]]).sum(dim=1)
        assert (gains[:91] - 1).abs().max() <= 1e-7 / (above * rank_tol)
        assert gains[91:].abs().max() <= 1e-6
    assert ranks == [91, 91]


def test_what_is_left_out_is_bounded():
    """`gram - L L^T` has no eigenvalue below rounding and a trace below the bound."""
    matrix = of_rank(100, smallest=1e-3).double()
    gram = matrix @ matrix.mT
    for left_out in (1e-12, 1e-8, 1e-3):
        factor = low_rank.low_rank_factor(gram, left_out)
        assert factor is not None
        rest = gram - factor @ factor.mT
        largest = torch.linalg.eigvalsh(gram)[-1]
        assert rest.trace() <= 2 * left_out * largest
        assert torch.linalg.eigvalsh(rest)[0] >= -1e-12 * largest
    assert factor.shape[1] < 100  # the last bound lets directions go


def test_zero_nan_and_low_rank_side_by_side_through_solve():
    stack = torch.stack([of_rank(90), of_rank(90, seed=5), of_rank(90, seed=7)])
    stack[1] = 0
    stack[2, 3, 4] = torch.nan
    out = torch.full_like(stack, 7.0)
    solve([Matrices(stack, out)])
    assert distance(out[0], stack[0]) <= 1e-4
    assert torch.equal(out[1], torch.zeros_like(out[1]))
    assert out[2].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_the_rank_away(dtype):
    matrix = of_rank(90, smallest=0.1).to(dtype)
    result = polar(matrix)
    assert result.dtype == dtype
    rounding = torch.finfo(dtype).eps / 2 * np.sqrt(matrix.numel())
    assert distance(result, matrix) <= rounding


def test_float64_takes_the_whole_matrix(ranks):
    matrix = well_conditioned(*WIDE)
    error = polar(matrix, "gram_eigh") - nearest_orthonormal(matrix)
    assert ranks == [None]
    assert torch.linalg.matrix_norm(error, ord=2) <= 1e-9


@pytest.mark.parametrize("stride", ["columns", "rows", "transposed"])
def test_matrices_that_are_not_contiguous(stride, ranks):
    matrix = of_rank(90)
    wide = torch.zeros(2 * WIDE[0], 2 * WIDE[1])
    view = {
        "columns": wide[: WIDE[0], ::2],
        "rows": wide[::2, : WIDE[1]],
        "transposed": torch.zeros(WIDE[::-1]).mT,
    }[stride]
    view.copy_(matrix)
    assert not view.is_contiguous()
    result = polar(view)
    assert ranks == [90]
    assert distance(result, matrix) <= 2e-5


@pytest.mark.parametrize("functional", [False, True])
def test_gradients_pass_through(functional, ranks):
    """A rotation R(t) = exp(t K) takes A to A R, so its factor too: along A K the derivative is polar(A) K."""
    matrix = of_rank(90)
    generator = torch.Generator().manual_seed(3)
    skew = torch.randn(WIDE[1], WIDE[1], generator=generator)
    skew -= skew.clone().mT
    weights = torch.randn(WIDE, generator=generator)

    def project(matrix):
        return (weights * polar(matrix, "gram_eigh")).sum()

    if functional:
        gradient = torch.func.grad(project)(matrix)
    else:
        (gradient,) = torch.autograd.grad(project(matrix.requires_grad_()), matrix)
    assert ranks == [90]
    matrix = matrix.detach().double()
    expected = (weights * (partial_isometry(matrix) @ skew.double())).sum()
    measured = (gradient.double() * (matrix @ skew.double())).sum()
    assert abs(measured - expected) <= 1e-3 * abs(expected)


def test_full_rank_matrices_that_need_no_search_are_left_as_they_were():
    """Below SMALLEST_SIDE, and where rank_tol is too near to rounding."""
    gram = torch.eye(low_rank.SMALLEST_SIDE - 1, dtype=torch.float64)
    assert low_rank.low_rank_eigh(gram, 1e-3, 1e-7) is None
    gram = torch.zeros(300, 300, dtype=torch.float64)
    gram[0, 0] = 1
    assert low_rank.low_rank_eigh(gram, 1e-8, 1e-16) is None
    pairs = low_rank.low_rank_eigh(gram, 1e-3, 1e-7)
    assert pairs is not None
    assert len(pairs[0]) == 1
