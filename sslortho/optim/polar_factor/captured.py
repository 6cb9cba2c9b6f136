"""A whole solve as one CUDA graph: hundreds of small launches become one.

A graph reads and writes the memory that it was captured with, and gradients change theirs. So it works on
copies of its own: gradients are copied in, the graph is replayed, results are copied out, in few launches.
Problems of the same shapes in the same order are captured at their third solve: by then libraries and kernels
are set up, and who calls once or twice pays nothing.

No GPU has proved this yet. So the first replay is compared with the same solve without a graph. Where they
disagree, or the capture fails, a warning says so, and the process goes on without graphs. (After a failed
capture, older versions of torch may not give free memory back to the device any more.)

Memory: the copies, at most GRAPH_ENTRIES entries in all graphs, and the memory in which a graph works.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sslortho.optim.polar_factor.fast_path import compare
from sslortho.optim.polar_factor.matrices import Matrices
from sslortho.optim.polar_factor.padding import PADDED, launches_matter

GRAPH_ENTRIES = 2**26
"""Most entries that the graphs of a process hold copies of: 256 MiB of float32. ResNet-50 has 23.5 M; the
matrices of larger networks are large, and launches matter little there."""

WARM_UP = 2
"""Solves of the same shapes before they are captured."""

REMEMBERED = 64
"""Most lists of shapes whose solves are counted, and most whose graphs went for want of room."""

STREAMS = 3
"""Streams that the stacks of a graph are dealt out to, so that small ones run side by side. By the arithmetic
of a review, not measured."""

AGREEMENT = 2e-2
"""Largest `disagreement` of a graph and the solve without it: the library may take other kernels for a graph,
whose rounding in bfloat16 differs by 4e-3. Results of memory that was not filled are off by more."""

Pieces = Callable[[Sequence[Matrices]], list[Callable[[], None]]]
"""Cuts problems into pieces of work that may run at the same time, without a graph."""

Record = Callable[[list[Callable[[], None]], torch.device], Callable[[], None]]
"""Captures pieces of work on a device without running them; the result runs them."""


def record_cuda_graph(pieces: list[Callable[[], None]], device: torch.device) -> Callable[[], None]:
    """Capture pieces of work as one CUDA graph, side by side on STREAMS streams."""
    graph = torch.cuda.CUDAGraph()
    streams = [torch.cuda.Stream(device) for _ in range(min(STREAMS, len(pieces)))]
    with torch.cuda.device(device):
        before = torch.cuda.current_stream(device)
        try:
            # thread_local: other threads, such as the one that pins batches, may call CUDA meanwhile
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                main = torch.cuda.current_stream(device)
                for stream in streams:
                    stream.wait_stream(main)
                for i, piece in enumerate(pieces):
                    with torch.cuda.stream(streams[i % len(streams)]):
                        piece()
                for stream in streams:
                    main.wait_stream(stream)
        finally:  # where the end of a capture raises, torch leaves its own stream the current one
            torch.cuda.set_stream(before)
    return graph.replay


@dataclass(eq=False)
class _Captured:
    """A solve that was captured, with the memory that it works in."""

    problems: list[Matrices]
    """Their results go where the matrices were."""
    replay: Callable[[], None]

    @property
    def entries(self) -> int:
        """Entries of the copies."""
        return sum(problem.stack.numel() for problem in self.problems)

    def solve(self, stacks: list[Tensor], outs: list[Tensor]) -> None:
        """Copy in, replay, copy out."""
        own = [problem.stack for problem in self.problems]
        torch._foreach_copy_(own, stacks)  # pyright: ignore[reportPrivateImportUsage]
        self.replay()
        torch._foreach_copy_(outs, own)  # pyright: ignore[reportPrivateImportUsage]


def _signature(problems: Sequence[Matrices]) -> tuple:
    """Problems of one signature can be solved by one graph."""
    return tuple(
        (p.stack.device, p.stack.dtype, p.stack.shape, p.stack.stride(), p.method, p.rank_tol)
        for p in problems
    )


def _agree(results: list[Tensor], expected: list[Tensor], stacks: list[Tensor]) -> bool | None:
    """Whether two solves give the same factors; None where no matrix is finite and not zero."""
    found = None
    for result, other, stack in zip(results, expected, stacks, strict=True):
        stack = stack.to(torch.promote_types(stack.dtype, torch.float32))
        largest = torch.linalg.vector_norm(stack, torch.inf, dim=(-2, -1), keepdim=True)
        counts = largest.isfinite() & (largest > 0)
        tensors = (result, other, stack / torch.where(counts, largest, 1))
        compared, apart = compare(*(torch.where(counts, x.to(stack.dtype), 0) for x in tensors))
        if not apart <= AGREEMENT:  # NaN too
            return False
        found = found or compared or None
    return found


class Graphs:
    """The graphs of a process; the oldest go where more than GRAPH_ENTRIES would be held.

    A graph that went is not made again: solves that take turns would else be captured at each step.
    """

    def __init__(self, record: Record = record_cuda_graph) -> None:
        self._record = record
        self._seen: OrderedDict[tuple, int] = OrderedDict()
        self._captured: OrderedDict[tuple, _Captured] = OrderedDict()
        self._left: OrderedDict[tuple, None] = OrderedDict()
        self._off = False

    def takes(self, problems: Sequence[Matrices]) -> bool:
        """Whether a graph of problems, whose methods are resolved, is possible and worth its memory.

        Not where bits must be the same each time: a process that resumes solves twice without a graph,
        which may take other kernels.
        """
        if torch.are_deterministic_algorithms_enabled():
            return False
        if self._off or not problems or not all(p.method in PADDED for p in problems):
            return False  # a decomposition waits for the device
        if problems[0].stack.is_cuda and torch.cuda.is_current_stream_capturing():
            return False  # the caller's own graph takes it in
        entries = sum(p.stack.numel() for p in problems)
        return entries <= GRAPH_ENTRIES and launches_matter(problems)

    def solve(self, problems: Sequence[Matrices], pieces: Pieces) -> None:
        """Solve problems of one device by a graph where there is one or it is time to make one."""
        if not self.takes(problems):
            run(pieces(problems))
            return
        key = _signature(problems)
        if key in self._left:
            run(pieces(problems))
            return
        if key in self._captured:
            self._captured.move_to_end(key)
            self._captured[key].solve([p.stack for p in problems], [p.out for p in problems])
            return
        seen = self._seen.pop(key, 0) + 1
        self._seen[key] = seen
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        if seen > WARM_UP:
            self._start(key, problems, pieces)
        else:
            run(pieces(problems))

    def _start(self, key: tuple, problems: Sequence[Matrices], pieces: Pieces) -> None:
        """Capture and replay beside the solve without a graph, whose results count; keep it if they agree."""
        gone = self._make_room(sum(problem.stack.numel() for problem in problems))
        stacks: list[Tensor] = []
        results: list[Tensor] = []
        captured = None
        try:
            stacks = [problem.stack.clone() for problem in problems]
            results = [torch.empty_like(stack) for stack in stacks]
            own = [torch.empty_like(stack) for stack in stacks]
            copies = [
                Matrices(x, x, p.method, p.rank_tol) for x, p in zip(own, problems, strict=True)
            ]
            captured = _Captured(copies, self._record(pieces(copies), own[0].device))
            captured.solve(stacks, results)
        except Exception as error:  # whatever CUDA raises; too little memory too
            self._turn_off(f"{type(error).__name__}: {error}")
        run(pieces(problems))
        if captured is None or self._off:
            return
        agreed = _agree(results, [problem.out for problem in problems], stacks)
        if agreed:
            self._captured[key] = captured
            self._left.update(dict.fromkeys(gone))
            while len(self._left) > REMEMBERED:
                self._left.popitem(last=False)
        elif agreed is False:  # else the next solve may tell
            self._turn_off("its results are not those of the same solve without it")

    def _make_room(self, entries: int) -> list[tuple]:
        """Let the graphs go that were not used for longest, until there is room for so many entries more.

        Returns the signatures of those that went.
        """
        gone = []
        while self._captured and entries + sum(c.entries for c in self._captured.values()) > (
            GRAPH_ENTRIES
        ):
            gone.append(self._captured.popitem(last=False)[0])
        return gone

    def _turn_off(self, reason: str) -> None:
        """Make no more graphs, use none, and say so."""
        self._off = True
        self._captured.clear()
        warnings.warn(
            "matrices are orthonormalised without a CUDA graph, which is slower where they are small: "
            f"{reason}",
            stacklevel=2,
        )


def run(pieces: list[Callable[[], None]]) -> None:
    """Run pieces of work one after another."""
    for piece in pieces:
        piece()


graphs = Graphs()
"""The graphs of this process."""
