import numpy as np
import pytest
import torch
from helpers.matrices import (
    nearest_orthonormal,
    random_orthogonal,
    well_conditioned,
    with_singular_values,
)
from torch.utils.flop_counter import FlopCounterMode

from sslortho.optim import polar
from sslortho.optim.polar_factor import (
    LOWER_BOUND,
    LOWER_BOUND_FLOAT64,
    TOLERANCE,
    TOLERANCE_FLOAT64,
)

EXACT = ("svd", "gram_eigh")
ITERATIVE = ("polar_express", "newton_schulz")
METHODS = (*EXACT, *ITERATIVE, "auto")
SHAPES = [
    (8, 20),
    (20, 8),
    (12, 12),
    (3, 5, 7),
    (2, 3, 6, 4),
    (1, 9),
    (9, 1),
    (1, 1),
    (4, 1, 1),
]
ROUNDING = {
    torch.float64: 1e-10,
    torch.float32: 2e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1e-2,
}


PROMISES = {
    torch.float32: (LOWER_BOUND, TOLERANCE),
    torch.float64: (LOWER_BOUND_FLOAT64, TOLERANCE_FLOAT64),
}
"""Lower bound and tolerance of the iterative methods."""


def error_allowed(method: str, dtype: torch.dtype = torch.float64) -> float:
    tolerance = TOLERANCE_FLOAT64 if dtype == torch.float64 else TOLERANCE
    return ROUNDING[dtype] + (tolerance if method in ITERATIVE else 0)


def assert_near(actual: torch.Tensor, expected: torch.Tensor, allowed: float) -> None:
    """Every matrix within `allowed` of the expected one in the spectral norm."""
    assert actual.shape == expected.shape
    assert torch.linalg.matrix_norm(actual.double() - expected, ord=2).max() <= allowed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_is_u_v_transposed(method, shape, dtype):
    matrices = well_conditioned(*shape).to(dtype)
    result = polar(matrices, method)
    assert result.dtype == dtype
    assert_near(result, nearest_orthonormal(matrices), error_allowed(method, dtype))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_shorter_side_is_orthonormal(method, shape):
    q = polar(well_conditioned(*shape), method)
    product = q @ q.mT if shape[-2] <= shape[-1] else q.mT @ q
    identity = torch.eye(min(shape[-2:]), dtype=torch.float64).expand_as(product)
    assert_near(product, identity, 3 * error_allowed(method))


@pytest.mark.parametrize("values", [[1, 0.5, 0.3, 0.1, 0.04], [1, 0.5, 0.3, 0, 0]], ids=str)
@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (5, 5)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_turns_with_the_matrix(method, shape, values):
    matrix = with_singular_values(*shape, values)
    left, right = random_orthogonal(shape[0], 10), random_orthogonal(shape[1], 11)
    turned = polar(left @ matrix @ right, method)
    # an iteration brings what rounding makes of zero to some eps / LOWER_BOUND_FLOAT64 = 2e-4
    allowed = 1e-2 if method in ITERATIVE and not all(values) else 1e-7
    assert_near(turned, left @ polar(matrix, method) @ right, allowed)


@pytest.mark.parametrize("method", ["gram_eigh", *ITERATIVE])
def test_tall_matrices_cost_what_wide_ones_do(method):
    operations = []
    for shape in ((8, 64), (64, 8)):
        with FlopCounterMode(display=False) as counter:
            polar(torch.ones(shape), method)
        operations.append(counter.get_total_flops())
    assert operations[0] == operations[1] > 0


@pytest.mark.parametrize("scale", [1e-35, 1e-20, 1e-4, 1e20, 1e36])
@pytest.mark.parametrize("method", METHODS)
def test_scale_does_not_matter(method, scale):
    matrices = well_conditioned(3, 6, 10)
    expected = nearest_orthonormal(matrices)
    result = polar((matrices * scale).float(), method)
    assert_near(result, expected, error_allowed(method, torch.float32))


@pytest.mark.parametrize("scale", [1e-300, 1e300])
@pytest.mark.parametrize("method", METHODS)
def test_scale_does_not_matter_in_float64(method, scale):
    matrices = well_conditioned(3, 6, 10)
    result = polar(matrices * scale, method)
    assert_near(result, nearest_orthonormal(matrices), error_allowed(method))


@pytest.mark.parametrize("method", METHODS)
def test_matrices_of_a_batch_have_their_own_scales(method):
    scales = torch.tensor([1e-20, 1.0, 1e20]).double().reshape(3, 1, 1)
    matrices = well_conditioned(3, 6, 10)
    result = polar((matrices * scales).float(), method)
    assert_near(result, nearest_orthonormal(matrices), error_allowed(method, torch.float32))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_half_precision_is_computed_in_float32(method, dtype):
    # of a size that overflows float16 as soon as it is squared or summed
    matrix = (well_conditioned(12, 30) * 6e4).to(dtype)
    result = polar(matrix, method)
    assert result.dtype == dtype
    # entries are below one, so that rounding the answer alone costs eps / 2 an entry
    rounding = torch.finfo(dtype).eps / 2 * np.sqrt(matrix.numel())
    assert_near(result, nearest_orthonormal(matrix), rounding + (method in ITERATIVE) * TOLERANCE)


@pytest.mark.parametrize("dtype", list(ROUNDING))
@pytest.mark.parametrize("method", METHODS)
def test_zero_stays_zero_and_leaves_the_others_alone(method, dtype):
    matrices = well_conditioned(3, 4, 6).to(dtype)
    matrices[1] = 0
    result = polar(matrices, method)
    assert torch.equal(result[1], torch.zeros(4, 6, dtype=dtype))
    others = [0, 2]
    expected = nearest_orthonormal(matrices[others])
    assert_near(result[others], expected, 2 * error_allowed(method, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("values", [[1, 0.6, 0.2, 0, 0, 0], [1, 0, 0, 0, 0, 0]], ids=str)
@pytest.mark.parametrize("shape", [(6, 15), (15, 6), (6, 6)], ids=str)
@pytest.mark.parametrize("method", [*EXACT, "auto"])
def test_rank_deficient_gives_the_partial_isometry(method, shape, values, dtype):
    matrix = with_singular_values(*shape, values)
    expected = nearest_orthonormal(matrix, rank_tol=1e-10)
    assert round(torch.linalg.matrix_norm(expected).item() ** 2) == np.count_nonzero(values)
    assert_near(polar(matrix.to(dtype), method), expected, ROUNDING[dtype])


@pytest.mark.parametrize("method", [*EXACT, "auto"])
def test_gradient_of_a_softmax_head_keeps_its_zero_column_sums(method):
    torch.manual_seed(0)
    head = torch.nn.Linear(64, 10, bias=False)
    loss = torch.nn.functional.cross_entropy(head(torch.randn(128, 64)), torch.arange(128) % 10)
    loss.backward()
    result = polar(head.weight.grad, method)
    assert result.sum(dim=0).abs().max() < 1e-4
    expected = torch.tensor([1.0] * 9 + [0.0])
    torch.testing.assert_close(torch.linalg.svdvals(result), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "matrix",
    [
        with_singular_values(6, 9, [1, 0.5, 0.2, 0, 0, 0]).float(),
        with_singular_values(9, 6, [1, 0.5, 0.2, 0, 0, 0]),
        torch.eye(4, 6) * torch.tensor([[1.0], [2.0], [0.0], [0.0]]),
    ],
    ids=["rounding noise, float32", "rounding noise, float64", "rows of zeros"],
)
@pytest.mark.parametrize("method", ["svd", "auto"])
def test_rank_tol_zero_keeps_every_direction(method, matrix):
    values = torch.linalg.svdvals(polar(matrix, method, rank_tol=0.0))
    torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["svd", "auto"])
def test_float64_reaches_directions_that_a_gram_matrix_loses(method):
    matrix = with_singular_values(4, 7, [1.0, 1e-3, 1e-8, 1e-12])
    expected = torch.eye(4, dtype=torch.float64)
    result = polar(matrix, method)
    torch.testing.assert_close(result @ result.mT, expected, rtol=0, atol=1e-9)
    # the smallest direction is known to eps / 1e-12
    assert_near(result, nearest_orthonormal(matrix), 1e-2)


@pytest.mark.parametrize("method", [*EXACT, "auto"])
@pytest.mark.parametrize("size", [2, 6, 10, 64, 128])
def test_a_direction_just_above_the_noise_does_not_disturb_the_others(method, size):
    """A root applied in float32 would: errors of eps * largest / smallest everywhere."""
    smallest = 1.3 * torch.finfo(torch.float32).eps * size
    matrix = with_singular_values(size, size, [1.0] * (size - 1) + [smallest])
    u, _, vh = torch.linalg.svd(matrix)
    result = polar(matrix.float(), method).double()
    kept = (u.mT @ result @ vh.mT).diagonal()[:-1]
    assert (kept - 1).abs().max() < 1e-5


@pytest.mark.parametrize("method", [*EXACT, "auto"])
def test_rank_tol_is_relative_to_the_largest(method):
    matrix = with_singular_values(5, 8, [7.0, 5.0, 2.2, 2.0, 0.1]).float()
    expected = nearest_orthonormal(matrix, rank_tol=0.3)
    assert round(torch.linalg.matrix_norm(expected).item() ** 2) == 3
    assert_near(polar(matrix, method, rank_tol=0.3), expected, ROUNDING[torch.float32])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("method", METHODS)
def test_a_matrix_that_is_not_finite_is_all_nan_and_leaves_the_others_alone(method, bad):
    matrices = well_conditioned(4, 5, 8).float()
    expected = torch.stack([polar(matrix, method) for matrix in matrices])
    matrices[2, 1, 3] = bad
    result = polar(matrices, method)
    assert result[2].isnan().all()
    others = [0, 1, 3]
    # one at a time or stacked, products round differently, and a Gram matrix feels that squared
    torch.testing.assert_close(result[others], expected[others], rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "view",
    [lambda x: x.mT, lambda x: x[::2, :, 1::2], lambda x: x.permute(1, 2, 0), lambda x: x[:, :1]],
    ids=["transposed", "strided", "permuted", "sliced"],
)
@pytest.mark.parametrize("method", METHODS)
def test_memory_order_does_not_matter_and_input_is_untouched(method, view):
    base = torch.stack([well_conditioned(6, 10, seed=seed) for seed in (0, 2, 4, 6)])
    before = base.clone()
    matrices = view(base)
    result = polar(matrices, method)
    torch.testing.assert_close(result, polar(matrices.clone(), method), rtol=0, atol=1e-9)
    assert torch.equal(base, before)


def spectra(count: int, smallest: float) -> dict[str, list[float]]:
    return {
        "logarithmic": np.geomspace(1, smallest, count).tolist(),
        "one small": [1.0] * (count - 1) + [smallest],
        "one large": [1.0] + [smallest] * (count - 1),
        "linear": np.linspace(1, smallest, count).tolist(),
    }


@pytest.mark.parametrize("spectrum", list(spectra(2, 0.1)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(24, 60), (60, 24), (32, 32), (2, 5)], ids=str)
@pytest.mark.parametrize("method", ITERATIVE)
def test_iterations_keep_their_promise_above_the_lower_bound(method, shape, dtype, spectrum):
    lower_bound, tolerance = PROMISES[dtype]
    matrix = with_singular_values(*shape, spectra(min(shape), lower_bound)[spectrum])
    result = polar(matrix.to(dtype), method).double()
    slack = ROUNDING[dtype]
    assert (torch.linalg.svdvals(result) - 1).abs().max() <= tolerance + slack
    # the singular vectors stay too; the smallest direction is perturbed by eps / lower_bound
    allowed = tolerance + slack + 2 * torch.finfo(dtype).eps / lower_bound
    assert_near(result, nearest_orthonormal(matrix.to(dtype)), allowed)


def error_above(result: torch.Tensor, matrix: torch.Tensor, bound: float) -> float:
    """Spectral norm of the error of a polar factor between directions above `bound` of the largest."""
    u, s, vh = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    kept = s >= bound * s[0]
    error = result.double().numpy() - u @ vh
    return np.linalg.norm(u[:, kept].T @ error @ vh[kept].T, 2)


WIDE_SPECTRA = {
    "to 1e-6": np.geomspace(1, 1e-6, 64).tolist(),
    "to 1e-4": np.geomspace(1, 1.01e-4, 64).tolist(),
    "to 1e-3": np.geomspace(1, 1.01e-3, 64).tolist(),
    "one at 1e-4": [1.0] * 63 + [1.01e-4],
    "one at 1e-6": [1.0] * 63 + [1e-6],
    "most at 1e-4": [1.0] + [1.01e-4] * 63,
}
"""64 singular values each."""


@pytest.mark.parametrize("shape", [(64, 64), (64, 600), (600, 64), (64, 900)], ids=str)
@pytest.mark.parametrize("spectrum", list(WIDE_SPECTRA))
@pytest.mark.parametrize("method", METHODS)
def test_documented_errors_above_a_thousandth_in_float32(method, spectrum, shape):
    for seed in (0, 10):
        matrix = with_singular_values(*shape, WIDE_SPECTRA[spectrum], seed).float()
        error = error_above(polar(matrix, method), matrix, 1e-3)
        assert error <= (1e-4 if method == "svd" else 1.2e-3)
        if method in ("auto", "gram_eigh") and max(shape) < 838 and "1e-6" in spectrum:
            assert error <= 1e-6
        if method in ("auto", "gram_eigh") and spectrum == "to 1e-3":
            assert error <= 2e-4


@pytest.mark.parametrize("shape", [(64, 64), (64, 200), (200, 64)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_documented_errors_above_a_thousandth_in_float64(method, shape):
    allowed = {"svd": 1e-12, "auto": 1e-12, "gram_eigh": 1e-9}.get(method, 1e-10)
    matrix = with_singular_values(*shape, WIDE_SPECTRA["to 1e-6"])
    assert error_above(polar(matrix, method), matrix, 1e-3) <= allowed


@pytest.mark.parametrize("smallest", [1e-3, 1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("method", [*ITERATIVE, "svd"])
def test_float64_errors_against_fifty_digits(method, smallest):
    """The polar factor of the float64 matrix itself, by mpmath."""
    mpmath = pytest.importorskip("mpmath")
    matrix = with_singular_values(6, 9, np.geomspace(1, smallest, 6).tolist())
    with mpmath.workdps(50):
        u, _, vt = mpmath.svd_r(mpmath.matrix(matrix.tolist()))
        exact = torch.tensor((u * vt).tolist(), dtype=torch.float64)
    result = polar(matrix, method)
    allowed = 10 * torch.finfo(torch.float64).eps / smallest + (1e-12 if method == "svd" else 1e-10)
    assert_near(result, exact, allowed)


@pytest.mark.parametrize("noise", [0.0, 1e-4])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (8, 27), (64, 576), (256, 256)], ids=str)
@pytest.mark.parametrize("method", ITERATIVE)
def test_iterations_bear_rounding_when_one_direction_dominates(method, shape, noise):
    """The largest singular value is then the Frobenius norm: rounding takes it beyond one."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        left, right = (torch.randn(size, 1, generator=generator) for size in shape)
        matrix = left @ right.mT
        matrix += noise * torch.randn(shape, generator=generator)
        result = polar(matrix, method)
        assert result.isfinite().all()
        expected = nearest_orthonormal(matrix, rank_tol=0.5)
        gain = (expected * result).sum().item()  # along the dominating direction
        assert gain == pytest.approx(1, abs=TOLERANCE + ROUNDING[torch.float32])
        assert torch.linalg.matrix_norm(result, ord=2) <= 1 + TOLERANCE + ROUNDING[torch.float32]


@pytest.mark.parametrize("method", ITERATIVE)
def test_iterations_leave_smaller_directions_between_zero_and_one(method):
    left, right = random_orthogonal(4, 0), random_orthogonal(6, 1)[:4]
    bound = LOWER_BOUND_FLOAT64
    values = torch.tensor([1.0, 0.1, bound / 3, bound / 30], dtype=torch.float64)
    result = left.mT @ polar(left @ torch.diag(values) @ right, method) @ right.mT
    gains = result.diagonal()
    # off the diagonal: rounding, eps = 2e-16, grows as the smallest directions do
    assert_near(result, torch.diag(gains), 2e-3)
    assert (gains[:2] - 1).abs().max() <= 1e-6
    assert 0 < gains[3] < gains[2] < 1


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 4, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_nothing_in_nothing_out(method, shape):
    result = polar(torch.empty(shape, dtype=torch.bfloat16), method)
    assert (result.shape, result.dtype) == (shape, torch.bfloat16)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: polar(torch.eye(3), "polar_expres"), "did you mean polar_express"),
        (lambda: polar(torch.eye(3), "SVD"), r"polar='SVD' is not one of auto, svd"),
        (lambda: polar(torch.ones(3)), r"at least two dimensions.*\(3,\)"),
        (lambda: polar(torch.ones(())), "at least two dimensions"),
        (lambda: polar(torch.ones(2, 2, dtype=torch.int64)), "floating point.*int64"),
        (lambda: polar(torch.ones(2, 2, dtype=torch.complex64)), "floating point.*complex64"),
        (lambda: polar(torch.eye(3), "polar_express", rank_tol=0.1), "rank_tol=0.1.*no effect"),
        (lambda: polar(torch.eye(3), "newton_schulz", rank_tol=0.0), "rank_tol=0.0.*no effect"),
        (lambda: polar(torch.eye(3), "svd", rank_tol=-1.0), "rank_tol=-1.0"),
        (lambda: polar(torch.eye(3), "gram_eigh", rank_tol=-1.0), "rank_tol=-1.0"),
        # float64 eigenvalues of a Gram matrix cannot tell such directions from noise
        (lambda: polar(torch.eye(3), "gram_eigh", rank_tol=0.0), "rank_tol=0.0.*svd"),
    ],
)
def test_errors_name_the_argument_and_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("method", "routine"), [("svd", "svd"), ("gram_eigh", "eigh")])
def test_a_failed_decomposition_is_tried_again(method, routine, monkeypatch):
    original, dtypes = getattr(torch.linalg, routine), []

    def fail_once(matrices, *args, **kwargs):
        dtypes.append(matrices.dtype)
        if len(dtypes) == 1:
            raise torch.linalg.LinAlgError("the algorithm failed to converge")
        return original(matrices, *args, **kwargs)

    matrices = well_conditioned(2, 4, 7).float()
    monkeypatch.setattr(torch.linalg, routine, fail_once)
    result = polar(matrices, method)
    assert dtypes[0] == (torch.float32 if method == "svd" else torch.float64)
    assert dtypes[1:] == [torch.float64]
    assert result.dtype == torch.float32
    assert_near(result, nearest_orthonormal(matrices), ROUNDING[torch.float32])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_a_decomposition_that_always_fails_gives_nan(dtype, monkeypatch):
    def fail(*args, **kwargs):
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "svd", fail)
    monkeypatch.setattr(torch.linalg, "eigh", fail)
    for method in EXACT:
        result = polar(well_conditioned(2, 4, 7).to(dtype), method)
        assert result.dtype == dtype
        assert result.isnan().all()


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 2, 5, 3), (4, 5)])
@pytest.mark.parametrize("method", ["svd", "gram_eigh", "newton_schulz"])
def test_gradients_are_those_of_finite_differences(method, shape):
    """A batch has one too, although the threads that solve one for an optimizer work without autograd."""
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrices.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: polar(x, method), matrices, atol=1e-5)
    with torch.no_grad():
        assert not polar(matrices, method).requires_grad


@pytest.mark.parametrize("method", ["svd", "gram_eigh", "auto"])
def test_a_thousandth_of_the_largest_is_kept_however_long_the_rows_are(method):
    """eps * 12,000 is above a thousandth: the rule of matrix_rank would lose it."""
    generator = torch.Generator().manual_seed(0)
    u = torch.linalg.qr(torch.randn(2, 2, generator=generator, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(12_000, 2, generator=generator, dtype=torch.float64)).Q
    matrix = u @ torch.diag(torch.tensor([1.0, 1.2e-3], dtype=torch.float64)) @ v.mT
    found = polar(matrix.float(), method).double()
    assert torch.linalg.matrix_norm(found - u @ v.mT, 2) < 1.2e-3


def _repeated(rows: int, columns: int, values: list[float]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    u = torch.linalg.qr(torch.randn(rows, rows, generator=generator, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(columns, columns, generator=generator, dtype=torch.float64)).Q
    return (
        u[:, : len(values)]
        @ torch.diag(torch.tensor(values, dtype=torch.float64))
        @ v[: len(values)]
    )


@pytest.mark.parametrize("method", ["svd", "gram_eigh"])
@pytest.mark.parametrize(
    "matrix",
    [
        torch.eye(3, dtype=torch.float64),
        torch.eye(4, dtype=torch.float64)[[2, 0, 3, 1]],
        _repeated(3, 5, [2.0, 2.0, 2.0]),
        _repeated(5, 3, [1.5, 0.7, 0.7]),
        _repeated(4, 4, [3.0, 1.0, 1.0, 0.2]),
        torch.stack([torch.eye(3, dtype=torch.float64), _repeated(3, 3, [1.0, 0.5, 0.5])]),
    ],
)
def test_equal_singular_values_have_a_gradient(method, matrix):
    """That of an SVD divides by their difference."""
    matrix = matrix.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: polar(x, method), matrix, atol=1e-5)


def test_directions_that_count_as_zero_have_the_gradient_of_the_partial_isometry():
    matrix = _repeated(4, 5, [1.0, 0.5, 1e-3, 1e-3]).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: polar(x, "svd", rank_tol=0.1), matrix, atol=1e-5)
