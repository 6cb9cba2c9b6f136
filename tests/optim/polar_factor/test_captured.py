"""Solves as CUDA graphs: what is copied where, with pieces of work that a CPU keeps and runs again."""

import contextlib
import functools
import warnings
from types import SimpleNamespace

import pytest
import torch
from helpers.gpu import DEVICE, on_gpu
from helpers.matrices import nearest_orthonormal, well_conditioned

from sslortho.optim.polar_factor import Matrices, captured, solve
from sslortho.optim.polar_factor.captured import WARM_UP, Graphs, run
from sslortho.optim.polar_factor.stacks import _pieces

SHAPES = [(2, 5, 9), (1, 9, 5), (1, 12, 40), (3, 4, 4)]


class Recorder:
    """In the place of a CUDA graph: keeps the work, and runs it when it is replayed."""

    def __init__(self, spoil=None):
        self.spoil, self.recorded, self.replayed = spoil, 0, 0

    def __call__(self, pieces, device):
        self.recorded += 1
        return functools.partial(self.replay, pieces)

    def replay(self, pieces):
        self.replayed += 1
        if self.spoil is None:
            run(pieces)


def draw(seed: int, method: str = "polar_express", shapes=SHAPES, in_place=True) -> list[Matrices]:
    problems = []
    for i, shape in enumerate(shapes):
        stack = well_conditioned(*shape, seed=seed + i).float()
        if i % 2:
            stack = stack.mT.contiguous().mT
        out = stack if in_place else torch.zeros_like(stack)
        problems.append(Matrices(stack, out, method))
    return problems


def check(problems, before, allowed=2e-3):
    for problem, stack in zip(problems, before, strict=True):
        torch.testing.assert_close(
            problem.out.double(), nearest_orthonormal(stack), rtol=0, atol=allowed
        )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("in_place", [True, False])
def test_each_solve_has_its_own_gradients(in_place):
    record = Recorder()
    graphs = Graphs(record)
    for step in range(WARM_UP + 3):
        problems = draw(10 * step, in_place=in_place)
        before = [problem.stack.clone() for problem in problems]
        graphs.solve(problems, _pieces)
        check(problems, before)
        if not in_place:
            assert all(torch.equal(p.stack, b) for p, b in zip(problems, before, strict=True))
        assert record.recorded == (step >= WARM_UP)
        assert record.replayed == max(0, step - WARM_UP + 1)


def test_other_shapes_methods_and_orders_have_graphs_of_their_own():
    record = Recorder()
    graphs = Graphs(record)
    for _ in range(WARM_UP + 1):
        graphs.solve(draw(0), _pieces)
        graphs.solve(draw(0, method="newton_schulz"), _pieces)
        graphs.solve(draw(0, shapes=SHAPES[:2]), _pieces)
    assert record.recorded == 3


@pytest.mark.parametrize("method", ["svd", "gram_eigh"])
def test_a_decomposition_is_never_captured(method):
    record = Recorder()
    graphs = Graphs(record)
    for _ in range(WARM_UP + 2):
        problems = draw(0, method)
        before = [problem.stack.clone() for problem in problems]
        graphs.solve(problems, _pieces)
        check(problems, before)
    assert not record.recorded


def test_where_bits_must_be_the_same_each_time_there_is_no_graph():
    record = Recorder()
    graphs = Graphs(record)
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(WARM_UP + 2):
            graphs.solve(draw(0), _pieces)
    finally:
        torch.use_deterministic_algorithms(False)
    assert not record.recorded


def test_large_matrices_are_not_worth_the_memory(monkeypatch):
    record = Recorder()
    graphs = Graphs(record)
    monkeypatch.setattr(captured, "GRAPH_ENTRIES", sum(p.stack.numel() for p in draw(0)) - 1)
    for _ in range(WARM_UP + 2):
        graphs.solve(draw(0), _pieces)
    assert not record.recorded
    assert not Graphs().takes(
        [Matrices(x, x, "polar_express") for x in [torch.empty(8, 2048, 2048)]]
    )


def test_the_graph_that_was_not_used_for_longest_goes(monkeypatch):
    record = Recorder()
    graphs = Graphs(record)
    monkeypatch.setattr(captured, "GRAPH_ENTRIES", 2 * sum(p.stack.numel() for p in draw(0)))
    methods = ["polar_express", "newton_schulz", "muon"]
    for method in methods:  # the third takes the place of the first
        for _ in range(WARM_UP + 1):
            graphs.solve(draw(0, method), _pieces)
    assert record.recorded == 3
    for method in reversed(methods[1:]):
        graphs.solve(draw(0, method), _pieces)
    assert record.recorded == 3


def test_solves_that_take_turns_are_not_captured_at_each_of_them(monkeypatch):
    """Three of which two fit: what went for want of room is solved without a graph from then on."""
    record = Recorder()
    graphs = Graphs(record)
    monkeypatch.setattr(captured, "GRAPH_ENTRIES", 2 * sum(p.stack.numel() for p in draw(0)))
    for step in range(WARM_UP + 5):
        for method in ("polar_express", "newton_schulz", "muon"):
            problems = draw(step, method)
            before = [problem.stack.clone() for problem in problems]
            graphs.solve(problems, _pieces)
            if method != "muon":
                check(problems, before)
    assert record.recorded == 3


@pytest.mark.parametrize("fails", [True, False])
def test_the_stream_of_before_is_current_after_a_capture(monkeypatch, fails):
    """torch leaves its own stream current where the end of a capture raises."""
    current = ["usual"]

    class Capture:
        def __init__(self, *arguments, **options):
            pass

        def __enter__(self):
            self.before, current[0] = current[0], "capturing"

        def __exit__(self, *error):
            if fails:
                raise RuntimeError("capture failed")
            current[0] = self.before

    class Stream:
        def __init__(self, device=None):
            pass

        def wait_stream(self, other):
            pass

    cuda = SimpleNamespace(
        CUDAGraph=lambda: SimpleNamespace(replay=None),
        Stream=Stream,
        graph=Capture,
        device=lambda device: contextlib.nullcontext(),
        stream=lambda stream: contextlib.nullcontext(),
        current_stream=lambda device: Stream() if current[0] == "capturing" else current[0],
        set_stream=lambda stream: current.__setitem__(0, stream),
    )
    monkeypatch.setattr(captured.torch, "cuda", cuda)
    with pytest.raises(RuntimeError) if fails else contextlib.nullcontext():
        captured.record_cuda_graph([lambda: None], torch.device("cuda"))
    assert current == ["usual"]


def test_a_graph_that_does_something_else_is_not_used():
    record = Recorder(spoil=True)
    graphs = Graphs(record)
    for _ in range(WARM_UP):
        graphs.solve(draw(0), _pieces)
    problems = draw(7)
    before = [problem.stack.clone() for problem in problems]
    with pytest.warns(UserWarning, match="without a CUDA graph.*not those of the same solve"):
        graphs.solve(problems, _pieces)
    check(problems, before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problems = draw(9)
        before = [problem.stack.clone() for problem in problems]
        graphs.solve(problems, _pieces)
    check(problems, before)
    assert record.recorded == record.replayed == 1


def test_a_capture_that_fails_is_not_tried_again():
    def record(pieces, device):
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = Graphs(record)
    for _ in range(WARM_UP):
        graphs.solve(draw(0), _pieces)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for step in range(3):
            problems = draw(step)
            before = [problem.stack.clone() for problem in problems]
            graphs.solve(problems, _pieces)
            check(problems, before)
    (warning,) = seen
    assert "RuntimeError: operation not permitted" in str(warning.message)


@pytest.mark.filterwarnings("error")
def test_broken_gradients_prove_nothing():
    record = Recorder()
    graphs = Graphs(record)
    for step in range(WARM_UP + 3):
        problems = draw(step)
        for i, problem in enumerate(problems if step == WARM_UP else problems[:1]):
            problem.stack.fill_(torch.nan if i % 2 == 0 else 0)
        before = [problem.stack.clone() for problem in problems]
        graphs.solve(problems, _pieces)
        assert problems[0].out.isnan().all()
        if step != WARM_UP:
            check(problems[1:], before[1:])
    assert record.recorded == 2  # the first could not be compared
    assert record.replayed == 3


@on_gpu
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", ["auto", "polar_express", "newton_schulz", "muon", "muon_bf16"])
def test_gpu_a_graph_is_the_solve_without_it(method, monkeypatch):
    graphs = Graphs()
    monkeypatch.setattr("sslortho.optim.polar_factor.stacks.graphs", graphs)
    shapes = [(2, 64, 576), (1, 576, 64), (1, 128, 1152), (4, 1, 9), (3, 65, 147)]
    for step in range(WARM_UP + 3):
        problems = draw(step, method, shapes)
        on_gpu = [Matrices(x, x, method) for x in (p.stack.to(DEVICE) for p in problems)]
        expected = [Matrices(x, x, method) for x in (p.stack.to(DEVICE) for p in problems)]
        solve(on_gpu)
        for problem in expected:
            run(
                _pieces(
                    [problem if method != "auto" else Matrices(problem.stack, problem.out, "svd")]
                )
            )
        for one, other in zip(on_gpu, expected, strict=True):
            allowed = 2e-2 if method == "muon_bf16" else 2e-3
            torch.testing.assert_close(one.out, other.out, rtol=0, atol=allowed)
    assert len(graphs._captured) == (DEVICE.type == "cuda")
