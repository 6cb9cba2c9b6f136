import itertools
import math

import pytest
import torch
from helpers.matrices import with_singular_values
from torch.utils.flop_counter import FlopCounterMode

from sslortho.optim import polar
from sslortho.optim.polar_factor import gram_iteration
from sslortho.optim.polar_factor.gram_iteration import (
    STAGE_GAIN,
    apply_quintics,
    iterate,
    relative_lower_bound,
    spectral_bound,
    split_stages,
)
from sslortho.optim.polar_factor.polynomials import newton_schulz_schedule, polar_express_schedule

SCHEDULES = [polar_express_schedule, newton_schulz_schedule]


def geometric(rows: int, columns: int, smallest: float) -> torch.Tensor:
    """float64, singular values from 1 to `smallest`."""
    count = min(rows, columns)
    values = torch.logspace(0, math.log10(smallest), count, dtype=torch.float64).tolist()
    return with_singular_values(rows, columns, values)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (12, 12), (12, 17), (1, 5)], ids=str)
def test_equals_steps_on_the_whole_matrix(shape, schedule):
    """The plain reference beside the fast form, in float64, where rounding does not tell them apart."""
    steps = schedule(1e-3, 1e-3)
    matrices = torch.stack([geometric(*shape, 1e-3), 5 * geometric(*shape, 0.3)])
    gram = matrices @ matrices.mT if shape[0] <= shape[1] else matrices.mT @ matrices
    expected = apply_quintics(matrices / spectral_bound(gram @ gram), steps)
    torch.testing.assert_close(iterate(matrices, steps), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("size", [1, 4, 64])
@pytest.mark.parametrize("smallest", [1.0, 0.1, 1e-6])
def test_spectral_bound_is_above_and_not_by_much(size, smallest):
    matrix = 3 * geometric(size, 80, smallest)
    gram = matrix @ matrix.mT
    bound = spectral_bound(gram @ gram).item()
    assert 3 * (1 - 1e-12) <= bound <= 3 * size ** (1 / 8) * (1 + 1e-12)
    # so a value at the lower bound stays above the relative one
    assert 1e-3 * 3 / bound >= relative_lower_bound(1e-3, size) * (1 - 1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_stages_are_the_schedule_cut_where_the_gain_would_be_too_large(schedule):
    steps = schedule(1e-6, 1e-3)
    stages = split_stages(steps)
    assert sum(stages, ()) == steps
    assert len(stages) > 1
    for stage in stages:
        assert math.prod(step[0] for step in stage) <= STAGE_GAIN
    for stage, following in itertools.pairwise(stages):
        assert math.prod(step[0] for step in (*stage, following[0])) > STAGE_GAIN


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_large_side_is_touched_twice_a_stage(schedule):
    """Operations grow with the columns by two products a stage, whatever the number of steps."""
    steps, rows, counts = schedule(1e-3, 1e-3), 8, []
    for columns in (100, 200):
        with FlopCounterMode(display=False) as counter:
            iterate(torch.randn(rows, columns), steps)
        counts.append(counter.get_total_flops())
    touches = 2 * len(split_stages(steps))
    assert counts[1] - counts[0] == touches * 2 * rows * rows * 100


@pytest.mark.parametrize("shape", [(96, 400), (400, 96), (128, 128)], ids=str)
def test_float32_needs_the_restart(shape, monkeypatch):
    """Singular values down to 1e-3, whose squares a float32 Gram matrix hardly holds."""
    matrix = geometric(*shape, 1e-3).float()
    values = torch.linalg.svdvals(polar(matrix, "polar_express").double())
    assert (values - 1).abs().max() < 2e-3
    if shape[0] != shape[1]:  # square ones take no Gram-side steps
        monkeypatch.setattr(gram_iteration, "STAGE_GAIN", math.inf)
        values = torch.linalg.svdvals(polar(matrix, "polar_express").double())
        assert not (values - 1).abs().max() < 2e-3


@pytest.mark.parametrize(("half", "error"), [(torch.float16, 1e-3), (torch.bfloat16, 4e-3)])
def test_the_last_step_in_half_precision_costs_little(half, error):
    matrix = geometric(64, 256, 1e-3).float()
    steps = polar_express_schedule(relative_lower_bound(1e-3, 64), 1e-3)
    exact, low = iterate(matrix, steps), iterate(matrix, steps, half=half)
    assert not torch.equal(exact, low)
    torch.testing.assert_close(low, exact, rtol=0, atol=error)
    assert (torch.linalg.svdvals(low.double()) - 1).abs().max() < 1e-3 + error


@pytest.mark.slow
@pytest.mark.parametrize("method", ["polar_express", "newton_schulz", "polar_express_fp16x3"])
@pytest.mark.parametrize("shape", [(2, 8, 30), (8, 8), (30, 8)], ids=str)
def test_compiles_into_one_graph(shape, method):
    torch.compiler.reset()
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(lambda x: polar(x, method), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(matrices), polar(matrices, method), rtol=0, atol=1e-5)


def test_autocast_does_not_reach_compiled_code():
    """In bfloat16 the Gram matrix would lose all but the largest directions."""
    torch.compiler.reset()
    matrices = torch.randn(3, 24, 60, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(
        lambda x: polar(x, "polar_express"), backend="aot_eager", fullgraph=True
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = compiled(matrices)
    torch.testing.assert_close(found, polar(matrices, "polar_express"), rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_replays_as_a_cuda_graph():
    matrices = torch.randn(4, 64, 256, device="cuda")
    polar(matrices, "polar_express")  # the libraries set themselves up outside the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = polar(matrices, "polar_express")
    matrices.copy_(torch.randn_like(matrices))
    graph.replay()
    expected = polar(matrices, "polar_express")
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_keeps_the_promise_whatever_the_process_is_set_to():
    matrix = geometric(256, 1024, 1e-3).float().cuda()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        values = torch.linalg.svdvals(polar(matrix, "polar_express").double())
    finally:
        torch.set_float32_matmul_precision(before)
    assert (values - 1).abs().max() < 2e-3
