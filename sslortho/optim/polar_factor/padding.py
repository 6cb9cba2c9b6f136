"""Matrices of different shapes in one stack, padded by zeros: where the launches of a small stack cost most.

A matrix that is padded by rows and columns of zeros has the same singular values and some zeros more; an odd
polynomial leaves the zeros zero, so the polar factor is the old one, padded. The choice is by the arithmetic of
`costs`, not measured.
"""

import functools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sslortho.optim.polar_factor.costs import H200, estimate
from sslortho.optim.polar_factor.factor import GPU_STACK
from sslortho.optim.polar_factor.fast_path import FP16X3
from sslortho.optim.polar_factor.iterative import MUON
from sslortho.optim.polar_factor.matrices import Matrices

PADDED = (FP16X3, "polar_express", "newton_schulz", *MUON)
"""Methods that take padded matrices: the iterative ones."""

Sides = tuple[int, int]
"""(rows, columns) of a wide matrix."""


def common_sides(shapes: Sequence[Sides]) -> Sides:
    """The smallest sides that hold all shapes."""
    return max(rows for rows, _ in shapes), max(columns for _, columns in shapes)


@functools.lru_cache(maxsize=256)
def plan(method: str, shapes: tuple[tuple[Sides, int], ...], limit: int) -> list[list[Sides]]:
    """Which shapes to solve together, padded to their common sides.

    Pairs are joined as long as that is estimated to save time, those that save most first.

    Args:
        method: one of PADDED.
        shapes: ((rows, columns), number of matrices); rows <= columns, each shape once.
        limit: most entries of a stack that is made by padding.

    Returns:
        The groups, of one shape or more.
    """
    groups = {i: ([shape], number) for i, (shape, number) in enumerate(shapes)}

    def saved(i: int, j: int) -> float:
        (a, many), (b, more) = groups[i], groups[j]
        rows, columns = common_sides(a + b)
        if (many + more) * rows * columns > limit or min(min(shape) for shape in a + b) == 1:
            return 0.0  # one row needs no iteration
        apart = [estimate(method, n, *common_sides(s)).seconds for s, n in ((a, many), (b, more))]
        return sum(apart) - estimate(method, many + more, rows, columns).seconds

    savings = {(i, j): saved(i, j) for i in groups for j in groups if i < j}
    while savings:
        best = max(savings, key=lambda pair: (savings[pair], pair))
        if savings[best] <= 0:
            break
        (a, many), (b, more) = (groups.pop(i) for i in best)
        savings = {pair: value for pair, value in savings.items() if not {*pair} & {*best}}
        new = max((*groups, *best)) + 1
        groups[new] = (a + b, many + more)
        savings.update({(i, new): saved(i, new) for i in groups if i != new})
    return [members for members, _ in groups.values()]


def join_shapes(shapes: Mapping[tuple, list[Matrices]]) -> dict[tuple, list[Matrices]]:
    """Join the parts of shapes that are to be padded and solved together.

    Args:
        shapes: parts by (method, rank_tol, device, dtype, rows, columns), rows <= columns.

    Returns:
        The same, each group under the key of one of its shapes.
    """
    kinds: dict[tuple, list[tuple[Sides, int]]] = defaultdict(list)
    for (*kind, rows, columns), parts in shapes.items():
        kinds[tuple(kind)].append(((rows, columns), sum(len(part.stack) for part in parts)))
    joined = {}
    for (method, *rest), sides in kinds.items():
        groups = (
            plan(method, tuple(sides), GPU_STACK) if method in PADDED else [[s] for s, _ in sides]
        )
        for group in groups:
            keys = [(method, *rest, *shape) for shape in group]
            joined[keys[0]] = [part for key in keys for part in shapes[key]]
    return joined


def launches_matter(problems: Sequence[Matrices]) -> bool:
    """Whether launches take more than half as long as the work, by the arithmetic of `costs`.

    Args:
        problems: of methods in PADDED.
    """
    numbers: dict[str, Counter[Sides]] = defaultdict(Counter)
    for problem in problems:
        rows, columns = sorted(problem.stack.shape[1:])
        numbers[problem.method][rows, columns] += len(problem.stack)
    estimates = [
        estimate(method, sum(shapes[shape] for shape in group), *common_sides(group))
        for method, shapes in numbers.items()
        for group in plan(method, tuple(shapes.items()), GPU_STACK)
    ]
    launches = H200.launch * sum(one.launches for one in estimates)
    return launches > sum(one.work for one in estimates) / 2


def stack_padded(stacks: Sequence[Tensor]) -> Tensor:
    """One stack (number, rows, columns) of stacks of wide matrices, padded by zeros; the only one as it is."""
    if len(stacks) == 1:
        return stacks[0]
    shapes = [(stack.shape[1], stack.shape[2]) for stack in stacks]
    if len(set(shapes)) == 1:
        return torch.cat(list(stacks))
    padded = stacks[0].new_zeros(sum(map(len, stacks)), *common_sides(shapes))
    for place, stack in zip(padded.split([len(s) for s in stacks]), stacks, strict=True):
        place[:, : stack.shape[1], : stack.shape[2]] = stack
    return padded
