"""Many matrices of few shapes: those of equal shape are stacked and solved in one call.

The entry for gradients. `Matrices` says what is to be solved and where the result goes; `solve` groups
them by shape and method, cuts the groups into parts of bounded size, and hands each part to
`factor.polar_stack`: on a CPU over threads (`parallel`), elsewhere one after another, on a GPU perhaps as
one graph (`captured`), with shapes joined by padding (`padding`).
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sslortho.float32_products import ieee_float32
from sslortho.optim.never_compiled import never_compiled
from sslortho.optim.polar_factor.captured import graphs, run
from sslortho.optim.polar_factor.factor import entries_limit, polar_stack, resolve_method
from sslortho.optim.polar_factor.matrices import Matrices
from sslortho.optim.polar_factor.padding import join_shapes, stack_padded
from sslortho.optim.polar_factor.parallel import run_on_threads


def _wide(stack: Tensor) -> Tensor:
    """The stack with rows <= columns: the polar factor of a transpose is the transposed factor."""
    return stack.mT if stack.shape[1] > stack.shape[2] else stack


def _solve_together(parts: list[Matrices], method: str) -> None:
    """Solve stacks in one call; those whose wide forms differ in shape are padded."""
    wide = [_wide(part.stack) for part in parts]
    factors = polar_stack(stack_padded(wide), method, parts[0].rank_tol)
    for part, factor in zip(parts, factors.split([len(w) for w in wide]), strict=True):
        out = _wide(part.out)
        out.copy_(factor[:, : out.shape[1], : out.shape[2]])


def _gather_parts(parts: list[Matrices]) -> Iterator[list[Matrices]]:
    """Gather parts that are solved in one call into lists that are solved at a time."""
    entries = max(_wide(p.stack).shape[1] for p in parts) * max(
        _wide(p.stack).shape[2] for p in parts
    )
    limit = max(1, entries_limit(parts[0].stack) // entries)
    gathered: list[Matrices] = []
    for part in parts:
        if gathered and sum(len(p.stack) for p in gathered) + len(part.stack) > limit:
            yield gathered
            gathered = []
        gathered.append(part)
    yield gathered


def _pieces(problems: Sequence[Matrices]) -> list[Callable[[], None]]:
    """Calls that solve problems, whose methods are resolved; the most expensive first."""
    shapes: dict[tuple, list[Matrices]] = defaultdict(list)
    for problem in problems:
        stack = problem.stack
        kind = (problem.method, problem.rank_tol, stack.device, stack.dtype)
        shapes[(*kind, *_wide(stack).shape[1:])].extend(problem.split())
    if problems[0].stack.is_cuda:
        shapes = join_shapes(shapes)
    together = [
        (method, parts) for (method, *_), all_ in shapes.items() for parts in _gather_parts(all_)
    ]
    together.sort(key=lambda item: -sum(part.cost for part in item[1]))
    return [functools.partial(_solve_together, parts, method) for method, parts in together]


def _resolve(problem: Matrices) -> Matrices:
    """The problem with the method that "auto" stands for."""
    method = resolve_method(problem.stack, problem.method, problem.rank_tol)
    return problem if method == problem.method else replace(problem, method=method)


@never_compiled
def solve(problems: Iterable[Matrices]) -> None:
    """Write the polar factors of all `problems`: equal shapes together, in parts of bounded size.

    On a CPU over torch's threads, the most expensive part first. Elsewhere one after another or as a CUDA
    graph, small matrices of different shapes padded to one, without waiting for the device but where
    something is compared for the first time (`fast_path`, `captured`). Never compiled: a compiled optimizer
    step calls it as it is.
    """
    devices: dict[torch.device, list[Matrices]] = defaultdict(list)
    for problem in problems:
        devices[problem.stack.device].append(_resolve(problem))
    with ieee_float32({device.type for device in devices}):
        for device, own in devices.items():
            if device.type == "cpu":
                run_on_threads(_pieces(own))
            elif device.type == "cuda":
                graphs.solve(own, _pieces)
            else:
                run(_pieces(own))
