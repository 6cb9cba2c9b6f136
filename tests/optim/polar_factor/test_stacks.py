import os
import subprocess
import sys
import threading

import pytest
import torch
from helpers.matrices import nearest_orthonormal, well_conditioned

from sslortho.optim import polar
from sslortho.optim.polar_factor import Matrices, decompositions, factor, solve, stacks
from sslortho.optim.polar_factor.parallel import run_on_threads


@pytest.fixture(params=[1, 2, 3])
def threads(request, set_threads):
    set_threads(request.param)
    return request.param


def problem(*shape: int, dtype=torch.float32, **options) -> Matrices:
    stack = well_conditioned(*shape, seed=sum(shape)).to(dtype)
    return Matrices(stack, torch.zeros_like(stack), **options)


def mixed_problems() -> list[Matrices]:
    shapes = [(1, 5, 9), (3, 9, 5), (1, 9, 5), (2, 5, 9), (1, 4, 4), (6, 1, 7), (1, 12, 70)]
    problems = [problem(*shape) for shape in shapes]
    problems += [problem(1, 5, 9, dtype=torch.float64), problem(2, 5, 9, method="svd")]
    problems += [problem(1, 9, 5, method="polar_express"), problem(1, 5, 9, rank_tol=1e-3)]
    problems.append(problem(1, 5, 9, dtype=torch.bfloat16))
    return problems


def test_each_matrix_gets_its_own_polar_factor(threads):
    problems = mixed_problems()
    solve(problems)
    for p in problems:
        atol = 2e-3 if p.method == "polar_express" else 5e-3 if p.out.dtype.itemsize < 4 else 2e-5
        expected = nearest_orthonormal(p.stack)
        torch.testing.assert_close(p.out.double(), expected, rtol=0, atol=atol)


def test_the_result_may_go_where_the_matrices_were():
    stack = well_conditioned(3, 6, 8).float()
    expected = polar(stack)
    solve([Matrices(stack, stack)])
    torch.testing.assert_close(stack, expected, rtol=0, atol=2e-5)


def test_equal_shapes_and_their_transposes_are_one_call(monkeypatch):
    calls = []
    original = factor.polar_stack

    def record(matrices, *arguments):
        calls.append(tuple(matrices.shape))
        return original(matrices, *arguments)

    monkeypatch.setattr(stacks, "polar_stack", record)
    solve([problem(1, 5, 9), problem(2, 9, 5), problem(1, 5, 9), problem(1, 4, 9)])
    assert sorted(calls) == [(1, 4, 9), (4, 5, 9)]


@pytest.mark.parametrize("limit", [1, 50, 100, 1000])
def test_no_call_takes_more_than_the_limit(monkeypatch, limit):
    sizes = []
    original = factor.polar_stack

    def record(matrices, *arguments):
        sizes.append(matrices.numel())
        return original(matrices, *arguments)

    monkeypatch.setattr(stacks, "polar_stack", record)
    monkeypatch.setattr(factor, "CPU_STACK", limit)
    problems = [problem(7, 4, 5), problem(1, 5, 4), problem(3, 4, 5), problem(1, 30, 20)]
    solve(problems)
    assert sum(sizes) == sum(p.stack.numel() for p in problems)
    assert max(size for size in sizes if size != 600) <= max(limit, 20)
    for p in problems:
        expected = nearest_orthonormal(p.stack).float()
        torch.testing.assert_close(p.out, expected, rtol=0, atol=2e-5)


def test_results_do_not_depend_on_the_number_of_threads(set_threads):
    """Matrices large enough for the libraries to split among threads if they could."""
    results = []
    for number in (1, 2, 3):
        set_threads(number)
        shapes = [(160, 500), (200, 200), (300, 130)]
        generator = torch.Generator().manual_seed(0)
        stacks_ = [torch.randn(1, *shape, generator=generator) for shape in shapes]
        problems = [Matrices(stack, torch.empty_like(stack)) for stack in stacks_]
        if number == 1:
            assert len(problems) == 3
        solve(problems)
        results.append([p.out for p in problems])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_pieces_run_at_once_with_gradients_off(set_threads):
    set_threads(2)
    meet, seen = threading.Barrier(2, timeout=30), []

    def piece():
        meet.wait()  # breaks unless both run
        seen.append((torch.is_grad_enabled(), torch.get_num_threads()))

    run_on_threads([piece, piece])
    assert seen == [(False, 1), (False, 1)]
    assert torch.get_num_threads() == 2
    assert torch.is_grad_enabled()
    fresh = []  # a thread that starts later is not left with the one thread of a worker
    thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert fresh == [2]


def test_all_pieces_end_before_an_error_is_raised(threads):
    done = []

    def fail():
        raise RuntimeError("broken piece")

    pieces = [lambda i=i: done.append(i) for i in range(4)]
    with pytest.raises(RuntimeError, match="broken piece"):
        run_on_threads([*pieces, fail])
    assert sorted(done) == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_starts_threads_of_its_own():
    script = """
import os, signal, torch, warnings
from sslortho.optim import polar
warnings.simplefilter("ignore")
torch.set_num_threads(2)
matrices = torch.randn(40, 32, 64)
expected = polar(matrices)
child = os.fork()
if child == 0:
    signal.alarm(60)
    torch.set_num_threads(2)
    os._exit(0 if torch.equal(polar(matrices), expected) else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("idle", [True, False])
@pytest.mark.parametrize("shape", [(200, 500), (500, 200), (300, 300)], ids=str)
def test_both_libraries_give_the_product(shape, idle, monkeypatch):
    """oneDNN's and MKL's, whichever this machine's processor would get."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(decompositions, "_mkl_leaves_avx512_idle", lambda: idle)
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for result in (polar(matrix), polar(matrix[None], "gram_eigh")[0]):
        expected = nearest_orthonormal(matrix).float()
        torch.testing.assert_close(result, expected, rtol=0, atol=2e-4 if 300 in shape else 2e-5)
