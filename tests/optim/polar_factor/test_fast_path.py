"""The guard of the fast path, with fast paths that are right, wrong, or do not run."""

import subprocess
import sys
import warnings

import pytest
import torch
from helpers.gpu import DEVICE, never_waits, on_gpu
from helpers.matrices import nearest_orthonormal, well_conditioned

from sslortho.optim import orthonormalise_, polar
from sslortho.optim.polar_factor import fast_path
from sslortho.optim.polar_factor.fast_path import FP16X3, Guard, is_supported
from sslortho.optim.polar_factor.fused_iteration import iterate_fused
from sslortho.optim.polar_factor.iterative import express_schedule, polar_express
from sslortho.optim.polar_factor.products import multiply

CPU = torch.device("cpu")


class Counted:
    """A solver that counts its calls."""

    def __init__(self, solve):
        self.solve, self.calls = solve, 0

    def __call__(self, matrices):
        self.calls += 1
        return self.solve(matrices)


def guarded(fast) -> tuple[Guard, Counted, Counted]:
    fast, plain = Counted(fast), Counted(polar_express)
    return Guard("fast", fast, plain), fast, plain


def draw(*shape: int) -> torch.Tensor:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    return matrices / matrices.abs().amax((-2, -1), keepdim=True)


def fails(matrices):
    raise RuntimeError("out of resource: shared memory")


def by(products):
    return lambda matrices: iterate_fused(matrices, express_schedule(matrices), products)


def one_half(a, b, **options):
    return multiply(a.half().float(), b.half().float(), **options)


def last_column_left_out(a, b, **options):
    return multiply(a[..., :-1], b[..., :-1, :], **options)


def mirrored_as_zero(a, b, **options):
    result = multiply(a, b, **options)
    return result.tril() if options.get("symmetric") else result


WRONG = {
    "one float16 number": by(one_half),
    "a column left out": by(last_column_left_out),
    "a triangle left out": by(mirrored_as_zero),
    "zero": torch.zeros_like,
    "NaN": lambda x: torch.full_like(x, torch.nan),
    "the matrix itself": lambda x: x,
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(2, 6, 30), (30, 6), (9, 9)], ids=str)
def test_a_right_one_is_compared_once(shape):
    guard, fast, plain = guarded(lambda x: polar(x, FP16X3))
    for _ in range(3):
        guard(draw(*shape))
    assert (fast.calls, plain.calls) == (3, 1)
    guard(draw(4, 5))  # another shape
    guard(draw(5, 4))
    assert (fast.calls, plain.calls) == (5, 2)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("shape", [(2, 8, 60), (60, 8), (24, 24)], ids=str)
def test_a_wrong_one_is_left_at_the_first_comparison(shape, wrong):
    guard, fast, plain = guarded(WRONG[wrong])
    matrices = draw(*shape)
    with pytest.warns(
        UserWarning, match="'fast' is not used on cpu.*off by.*polar_express"
    ) as seen:
        result = guard(matrices)
    assert len(seen) == 1
    assert torch.equal(result, polar_express(matrices))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one warning is enough
        assert torch.equal(guard(matrices), polar_express(matrices))
        guard(draw(5, 7))
    assert (fast.calls, plain.calls) == (1, 3)


@pytest.mark.parametrize("good", [0, 2])
def test_one_that_does_not_run_is_left_whenever_that_is(good):
    """A kernel may compile for the first shapes, and not for another one."""
    guard, fast, _ = guarded(lambda x: polar_express(x) if fast.calls <= good else fails(x))
    matrices = draw(4, 12)
    for _ in range(good):
        guard(matrices)
    with pytest.warns(UserWarning, match="RuntimeError: out of resource") as seen:
        assert torch.equal(guard(matrices), polar_express(matrices))
    assert len(seen) == 1
    guard(matrices)
    assert fast.calls == good + 1


def test_too_little_memory_is_the_callers_affair():
    def full(matrices):
        raise torch.OutOfMemoryError("CUDA out of memory")

    guard, _, _ = guarded(full)
    with pytest.raises(torch.OutOfMemoryError):
        guard(draw(3, 4))


@pytest.mark.filterwarnings("error")
def test_zero_proves_nothing():
    guard, fast, plain = guarded(polar_express)
    for _ in range(2):
        guard(torch.zeros(2, 4, 9))
    assert (fast.calls, plain.calls) == (2, 2)
    guard(draw(2, 4, 9))
    guard(draw(2, 4, 9))
    assert (fast.calls, plain.calls) == (4, 3)


@pytest.mark.filterwarnings("error")
def test_what_nobody_promises_is_not_compared():
    """Directions of rounding noise, which the two ways bring to different lengths."""
    matrices = draw(20, 3) @ draw(3, 60)
    guard, _, plain = guarded(lambda x: polar(x, FP16X3))
    guard(matrices)
    guard(matrices)
    assert plain.calls == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_on_a_cpu_it_is_emulated(dtype):
    assert not is_supported(CPU)
    matrices = well_conditioned(3, 6, 20).to(dtype)
    result = polar(matrices, FP16X3)
    assert result.dtype == dtype
    allowed = 1e-2 if dtype == torch.bfloat16 else 1e-4
    expected = nearest_orthonormal(matrices)
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=allowed)


def test_gradients_flow_through_the_plain_iteration():
    matrix = draw(4, 9).requires_grad_()
    polar(matrix, FP16X3).square().sum().backward()
    (expected,) = torch.autograd.grad(polar(matrix, "polar_express").square().sum(), matrix)
    assert torch.equal(matrix.grad, expected)


def test_matrices_that_32_bits_do_not_count_are_solved_the_plain_way(monkeypatch):
    matrix = draw(4, 9)
    monkeypatch.setattr(fast_path, "LARGEST", 36)
    assert not torch.equal(polar(matrix, FP16X3), polar(matrix, "polar_express"))
    monkeypatch.setattr(fast_path, "LARGEST", 35)
    assert torch.equal(polar(matrix, FP16X3), polar(matrix, "polar_express"))


@pytest.mark.slow
def test_importing_the_optimizers_imports_no_kernel():
    script = (
        "import sys, torch, sslortho.optim as optim\n"
        "optim.polar(torch.randn(3, 4), 'polar_express_fp16x3')\n"
        "assert 'sslortho.optim.polar_factor.triton_products' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


class Device:
    """A device that says of itself what `is_supported` is to hear."""

    def __init__(self, monkeypatch, capability=(9, 0), triton=True, hip=None):
        is_supported.cache_clear()
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.version, "hip", hip)
        found = object() if triton else None
        monkeypatch.setattr(fast_path.importlib.util, "find_spec", lambda name: found)


@pytest.mark.parametrize(
    ("options", "supported"),
    [
        ({}, True),
        ({"capability": (8, 0)}, True),
        ({"capability": (7, 5)}, False),
        ({"triton": False}, False),
        ({"hip": "6.2"}, False),
    ],
    ids=str,
)
def test_which_devices_are_supported(monkeypatch, options, supported):
    Device(monkeypatch, **options)
    assert is_supported(torch.device("cuda", 0)) is supported
    is_supported.cache_clear()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("error")
def test_gpu_the_guard_finds_nothing(monkeypatch):
    guard = Guard(FP16X3, Counted(fast_path.guard.fast), Counted(polar_express))
    for shape in [(4, 64, 576), (64, 64), (129, 301), (1, 512, 4608)]:
        for _ in range(2):
            guard(draw(*shape).to(DEVICE))
    assert guard.fast.calls == 8
    assert guard.plain.calls == 4


@on_gpu
def test_gpu_waits_for_nothing_after_the_first_comparison():
    weights = [
        torch.nn.Parameter(torch.zeros(s, device=DEVICE)) for s in [(64, 147), (70, 3, 3, 3)]
    ]

    def step():
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        orthonormalise_(weights)

    for _ in range(4):  # the third solve captures a graph, and compares
        step()
    with never_waits():
        step()
