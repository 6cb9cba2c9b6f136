"""Many matrices of few shapes: those of equal shape are stacked and solved in one call.

The entry for gradients. `Matrices` says what is to be solved and where the result goes; `solve` groups
them by shape and method, cuts the groups into parts of bounded size, and hands each part to
`factor.polar_stack`: on a CPU over threads (`parallel`), elsewhere one after another.
"""

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sslortho.float32_products import ieee_float32
from sslortho.optim.polar_factor.factor import polar_stack, resolve_method, stack_limit
from sslortho.optim.polar_factor.parallel import run_on_threads


@dataclass(frozen=True, eq=False)
class Matrices:
    """A stack of matrices of one shape, and where their polar factors go."""

    stack: Tensor
    """(number, rows, columns)."""
    out: Tensor
    """(number, rows, columns); may be the stack itself."""
    method: str = "auto"
    """See `sslortho.optim.polar`."""
    rank_tol: float | None = None
    """See `sslortho.optim.polar`."""

    @property
    def cost(self) -> int:
        """Operations, up to a factor: two products with the small side, and an eigenproblem on it.

        An eigendecomposition takes as long as about six products of its size (256 to 1024 rows: MKL
        on an AMD EPYC, 2026-11-24).
        """
        number, *sides = self.stack.shape
        small, large = sorted(sides)
        return number * (2 * small * small * large + 6 * small**3)

    def split(self) -> Iterator["Matrices"]:
        """Parts that are solved at a time."""
        step = stack_limit(self.stack)
        stacks, outs = self.stack.split(step), self.out.split(step)
        for stack, out in zip(stacks, outs, strict=True):
            yield Matrices(stack, out, self.method, self.rank_tol)


def _wide(stack: Tensor) -> Tensor:
    """The stack with rows <= columns: the polar factor of a transpose is the transposed factor."""
    return stack.mT if stack.shape[1] > stack.shape[2] else stack


def _solve_together(parts: list[Matrices], method: str) -> None:
    """Solve stacks whose wide forms have one shape in one call."""
    wide = [_wide(part.stack) for part in parts]
    stack = wide[0] if len(wide) == 1 else torch.cat(wide)
    factors = polar_stack(stack, method, parts[0].rank_tol)
    for part, factor in zip(parts, factors.split([len(w) for w in wide]), strict=True):
        _wide(part.out).copy_(factor)


def _gather_parts(parts: list[Matrices]) -> Iterator[list[Matrices]]:
    """Gather parts of one wide shape into lists that are solved at a time."""
    limit = stack_limit(parts[0].stack)
    gathered: list[Matrices] = []
    for part in parts:
        if gathered and sum(len(p.stack) for p in gathered) + len(part.stack) > limit:
            yield gathered
            gathered = []
        gathered.append(part)
    yield gathered


@torch.compiler.disable()
def solve(problems: Iterable[Matrices]) -> None:
    """Write the polar factors of all `problems`: equal shapes together, in parts of bounded size.

    On a CPU over torch's threads, the most expensive part first. Elsewhere one after another
    without waiting for the device. Never compiled: a compiled optimizer step calls it as it is.
    """
    shapes: dict[tuple, list[Matrices]] = defaultdict(list)
    for problem in problems:
        stack = problem.stack
        method = resolve_method(stack, problem.method, problem.rank_tol)
        key = (method, problem.rank_tol, stack.device, stack.dtype, *_wide(stack).shape[1:])
        shapes[key].extend(problem.split())
    together = [
        (method, parts) for (method, *_), all_ in shapes.items() for parts in _gather_parts(all_)
    ]
    together.sort(key=lambda item: -sum(part.cost for part in item[1]))
    on_cpu = []
    with ieee_float32({parts[0].stack.device.type for _, parts in together}):
        for method, parts in together:
            if parts[0].stack.is_cpu:
                on_cpu.append(functools.partial(_solve_together, parts, method))
            else:
                _solve_together(parts, method)
        if on_cpu:
            run_on_threads(on_cpu)
