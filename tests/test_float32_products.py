import contextlib
import threading
import warnings

import pytest
import torch
from helpers.matrices import with_singular_values
from torch import nn

from sslortho.float32_products import _warn_of_tuned_kernels, ieee_float32
from sslortho.optim import orthonormalise_, polar


@pytest.fixture(params=["highest", "high", "medium"])
def setting(request):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


def state() -> list:
    """Settings of CUDA and of oneDNN; torch before 2.9 has one for both."""
    matmuls = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    values = [getattr(matmul, "fp32_precision", None) for matmul in matmuls]
    return values if None not in values else [torch.get_float32_matmul_precision()]


def test_is_exact_within_and_as_before_after(setting):
    before = state()
    with ieee_float32(["cpu"]):
        assert set(state()) <= {"ieee", "highest"}
    assert state() == before
    assert torch.get_float32_matmul_precision() == setting


def test_is_as_before_after_an_error(setting):
    before = state()
    with pytest.raises(KeyError), ieee_float32(["cpu"]):
        raise KeyError
    assert state() == before


def test_of_two_threads_the_last_restores_the_setting(setting):
    before = state()
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with ieee_float32(["cpu"]):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with ieee_float32(["cpu"]):
        thread.start()
        assert entered.wait(10)
    assert set(state()) <= {"ieee", "highest"}  # the other one is still at work
    leave.set()
    thread.join()
    assert state() == before


class TunableOp:
    """torch.cuda.tunable's switch; an environment variable may be stronger."""

    def __init__(self, forced=False):
        self.on, self.forced = True, forced

    def is_enabled(self):
        return self.on or self.forced

    def enable(self, value=True):
        self.on = value


@pytest.fixture
def no_autocast_of_cuda(monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


def test_tuned_kernels_are_off_on_a_gpu(monkeypatch, no_autocast_of_cuda):
    tunable = TunableOp()
    monkeypatch.setattr(torch.cuda, "tunable", tunable)
    with ieee_float32(["cpu"]):
        assert tunable.on
        with ieee_float32(["cuda"]), ieee_float32(["cuda"]):
            assert not tunable.on
        assert tunable.on
    tunable.enable(False)
    with ieee_float32(["cuda"]):
        assert not tunable.on
    assert not tunable.on


def test_tuned_kernels_that_stay_on_are_named_once(monkeypatch, no_autocast_of_cuda):
    monkeypatch.setattr(torch.cuda, "tunable", TunableOp(forced=True))
    _warn_of_tuned_kernels.cache_clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            with ieee_float32(["cuda"]):
                pass
    _warn_of_tuned_kernels.cache_clear()
    assert ["PYTORCH_TUNABLEOP_ENABLED=1" in str(each.message) for each in told] == [True]


def test_results_and_setting_are_untouched(setting):
    matrix = with_singular_values(20, 50, torch.logspace(0, -3, 20).tolist()).float()
    parameter = nn.Parameter(torch.zeros(20, 50))
    for method in ("auto", "polar_express"):
        parameter.grad = matrix.clone()
        orthonormalise_([parameter], method)
        for result in (parameter.grad, polar(matrix, method), polar(matrix[None], method)[0]):
            values = torch.linalg.svdvals(result.double())
            assert (values - 1).abs().max() < 2e-3
    assert torch.get_float32_matmul_precision() == setting


@pytest.mark.parametrize("method", ["auto", "svd", "polar_express"])
@pytest.mark.parametrize("threads", [1, 2])
def test_autocast_does_not_reach_it(method, threads, set_threads):
    set_threads(threads)
    matrices = torch.randn(3, 20, 50, generator=torch.Generator().manual_seed(0))
    parameters = [nn.Parameter(torch.zeros(20, 50)) for _ in matrices]
    for p, matrix in zip(parameters, matrices, strict=True):
        p.grad = matrix.clone()
    with torch.autocast("cpu", torch.bfloat16):
        results = [polar(matrices, method), polar(matrices[0], method)[None]]
        orthonormalise_(parameters, method)
        assert (matrices[0] @ matrices[0].mT).dtype == torch.bfloat16  # still on around it
    results.append(torch.stack([p.grad for p in parameters]))
    for result in results:
        values = torch.linalg.svdvals(result.double())
        assert (values - 1).abs().max() < 1.1e-3
