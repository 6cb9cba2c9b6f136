"""Sharing matrices among ranks: each solves some of them, and all get all results.

For ranks that hold the same gradients, as DistributedDataParallel leaves them. A matrix is solved by
one rank and its result sent to the others as it is, so all ranks hold the same bits.
"""

import heapq
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from sslortho.optim.stacks import Matrices, solve

Share = Literal["auto"] | bool

MESSAGE = 2**23
"""Entries that a rank sends at a time: 32 MiB of float32, about DDP's bucket. While a message is
under way the next one's matrices are solved."""


def world_size() -> int:
    """Ranks of the default process group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def deal(costs: Sequence[int], ranks: int) -> list[int]:
    """Rank of each item: the most expensive first, each to the rank that has least so far.

    The largest load is at most 4/3 - 1/(3 ranks) times the best possible one (Graham 1969).
    """
    loads = [(0, rank) for rank in range(ranks)]
    owner = [0] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        load, rank = heapq.heappop(loads)
        owner[i] = rank
        heapq.heappush(loads, (load + costs[i], rank))
    return owner


def _rounds(problems: Sequence[Matrices], owner: list[int], ranks: int) -> list[list[list[int]]]:
    """What each rank sends in each round: [round][rank] -> indices into `problems`."""
    rounds: list[list[list[int]]] = []
    for rank in range(ranks):
        number, filled = 0, 0
        for i in (i for i, own in enumerate(owner) if own == rank):
            size = problems[i].stack.numel()
            if filled and filled + size > MESSAGE:
                number, filled = number + 1, 0
            filled += size
            while len(rounds) <= number:
                rounds.append([[] for _ in range(ranks)])
            rounds[number][rank].append(i)
    return rounds


@dataclass
class _Message:
    """One all-gather under way."""

    received: Tensor
    """(ranks, entries)."""
    indices: list[list[int]]
    work: dist.Work | None

    def unpack(self, problems: Sequence[Matrices]) -> None:
        if self.work is not None:
            self.work.wait()
        for row, indices in zip(self.received, self.indices, strict=True):
            start = 0
            for i in indices:
                out = problems[i].out
                out.copy_(row[start : start + out.numel()].view(out.shape))
                start += out.numel()


def _send(problems: Sequence[Matrices], indices: list[list[int]]) -> _Message:
    """Solve this rank's matrices of a round and start to send them."""
    ranks, rank = len(indices), dist.get_rank()
    entries = max(sum(problems[i].stack.numel() for i in own) for own in indices)
    first = problems[next(i for own in indices for i in own)].stack
    mine = first.new_zeros(entries)
    start, own = 0, []
    for i in indices[rank]:
        stack = problems[i].stack
        out = mine[start : start + stack.numel()].view(stack.shape)
        own.append(Matrices(stack, out, problems[i].method, problems[i].rank_tol))
        start += stack.numel()
    solve(own)
    received = first.new_empty(ranks, entries)
    work = dist.all_gather_into_tensor(received.view(-1), mine, async_op=True)
    return _Message(received, indices, work)


def solve_shared(problems: Sequence[Matrices]) -> None:
    """As `solve`, with the work shared among all ranks, which must call it with the same problems."""
    ranks = world_size()
    kinds: dict[tuple, list[Matrices]] = {}
    for problem in problems:
        kinds.setdefault((problem.stack.device, problem.stack.dtype), []).append(problem)
    for alike in kinds.values():
        owner = deal([problem.cost for problem in alike], ranks)
        under_way = None
        for indices in _rounds(alike, owner, ranks):
            message = _send(alike, indices)
            if under_way is not None:
                under_way.unpack(alike)
            under_way = message
        if under_way is not None:
            under_way.unpack(alike)


def gradients_agree(problems: Sequence[Matrices]) -> bool:
    """Whether all ranks hold the same gradients: a collective, to be called on all or none.

    Compares shapes, memory orders, and three sums of each gradient.
    """
    layout = [(tuple(p.stack.shape), p.stack.stride(), str(p.stack.dtype)) for p in problems]
    sums = [
        torch.stack([stack.sum(), stack.square().sum(), (stack * stack.roll(1)).sum()]).cpu()
        for stack in (problem.stack.double() for problem in problems)
    ]
    fingerprint = (layout, torch.cat(sums) if sums else torch.empty(0))
    everyones: list = [None] * world_size()
    dist.all_gather_object(everyones, fingerprint)
    first_layout, first_sums = everyones[0]
    return all(
        layout == first_layout
        and torch.allclose(sums, first_sums, rtol=1e-5, atol=0, equal_nan=True)
        for layout, sums in everyones
    )


def check_share(share: object) -> None:
    """Raise ValueError unless `share` is "auto", True or False."""
    if share != "auto" and not isinstance(share, bool):
        raise ValueError(f"share={share!r} must be 'auto', True or False")


class Sharing:
    """Decides for an optimizer whether its ranks share, and solves accordingly."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self._agreed: dict[tuple, bool] = {}

    def _agree(self, problems: Sequence[Matrices]) -> bool:
        """Ask the other ranks, once for each set of gradients."""
        key = tuple(problem.stack.shape for problem in problems)
        if key not in self._agreed:
            self._agreed[key] = agreed = gradients_agree(problems)
            if not agreed and self.share is True:
                raise ValueError(
                    "share=True, but the ranks' gradients differ; average them before the step (as "
                    "DistributedDataParallel does), or use share=False"
                )
            if not agreed:
                warnings.warn(
                    "the ranks' gradients differ, so each rank orthonormalises all of its own; "
                    "share=False says that this is meant",
                    stacklevel=2,
                )
        return self._agreed[key]

    def solve(self, problems: Sequence[Matrices]) -> None:
        """`stacks.solve` or `solve_shared`."""
        shared = self.share is not False and world_size() > 1 and self._agree(problems)
        (solve_shared if shared else solve)(problems)
