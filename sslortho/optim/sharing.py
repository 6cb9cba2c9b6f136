"""Sharing matrices among ranks: each solves some of them, and all get all results.

For ranks that hold the same gradients, as DistributedDataParallel leaves them. A matrix is solved by
one rank and its result sent to the others as it is, so all ranks hold the same bits.
"""

import gc
import heapq
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from sslortho.optim.polar_factor.stacks import Matrices, solve

Share = Literal["auto"] | bool

MESSAGE = 2**23
"""Entries that a rank gathers into one message before it starts another: 32 MiB of float32, about
DDP's bucket. A larger matrix is a message of its own. While one message is under way the next one's
matrices are solved."""

PADDING = 2
"""An all-gather sends as much from every rank as the largest has to send. If that is more than this
many times what there is to send, each rank broadcasts its own instead."""


def world_size(group: Any = None) -> int:
    """Ranks of a process group, by default the one of all; 1 without one."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


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
    """The results of one round, under way: a buffer for each rank's matrices, one after another."""

    problems: Sequence[Matrices]
    indices: list[list[int]]
    """[rank] -> indices into `problems`."""
    buffers: Sequence[Tensor]
    """[rank] -> its results, and perhaps padding."""
    works: list[Any]

    def _places(self, rank: int) -> list[tuple[Matrices, Tensor]]:
        """Each of a rank's problems, and where in its buffer the result lies."""
        start, places = 0, []
        for i in self.indices[rank]:
            stack = self.problems[i].stack
            part = self.buffers[rank][start : start + stack.numel()]
            places.append((self.problems[i], part.view(stack.shape)))
            start += stack.numel()
        return places

    def solve(self, rank: int) -> None:
        """Fill a rank's own buffer."""
        solve(Matrices(p.stack, out, p.method, p.rank_tol) for p, out in self._places(rank))

    def unpack(self) -> None:
        """Wait, and write every rank's results to where they belong."""
        for work in self.works:
            work.wait()
        for rank in range(len(self.indices)):
            for problem, result in self._places(rank):
                problem.out.copy_(result)


def _send(problems: Sequence[Matrices], indices: list[list[int]], group: Any) -> _Message:
    """Solve this rank's matrices of a round and start to send them."""
    ranks, rank = len(indices), dist.get_rank(group)
    sizes = [sum(problems[i].stack.numel() for i in own) for own in indices]
    like = problems[next(i for own in indices for i in own)].stack
    if ranks * max(sizes) <= PADDING * sum(sizes):
        received = like.new_zeros(ranks, max(sizes))
        message = _Message(problems, indices, list(received), [])
        message.solve(rank)
        mine = received[rank].clone()
        message.works.append(
            dist.all_gather_into_tensor(received.view(-1), mine, group=group, async_op=True)
        )
        return message
    message = _Message(problems, indices, [like.new_empty(size) for size in sizes], [])
    message.solve(rank)
    for sender, buffer in enumerate(message.buffers):
        if buffer.numel():
            source = dist.get_global_rank(group, sender) if group is not None else sender
            message.works.append(dist.broadcast(buffer, source, group=group, async_op=True))
    return message


def solve_shared(problems: Sequence[Matrices], group: Any = None) -> None:
    """As `solve`, with the work shared among the ranks of a process group, by default all.

    All of them must call it with the same problems.
    """
    ranks = world_size(group)
    kinds: dict[tuple, list[Matrices]] = {}
    for problem in problems:
        kinds.setdefault((problem.stack.device, problem.stack.dtype), []).append(problem)
    for alike in kinds.values():
        owner = deal([problem.cost for problem in alike], ranks)
        under_way = None
        for indices in _rounds(alike, owner, ranks):
            message = _send(alike, indices, group)
            if under_way is not None:
                under_way.unpack()
            under_way = message
        if under_way is not None:
            under_way.unpack()


def gradients_agree(problems: Sequence[Matrices], group: Any = None) -> bool:
    """Whether all ranks hold the same gradients: a collective, to be called on all or none.

    Compares shapes, memory orders, and three sums of each gradient.
    """
    layout = [(tuple(p.stack.shape), p.stack.stride(), str(p.stack.dtype)) for p in problems]
    sums = [
        torch.stack([stack.sum(), stack.square().sum(), (stack * stack.roll(1)).sum()]).cpu()
        for stack in (problem.stack.double() for problem in problems)
    ]
    fingerprint = (layout, torch.cat(sums) if sums else torch.empty(0))
    everyones: list = [None] * world_size(group)
    dist.all_gather_object(everyones, fingerprint, group=group)
    first_layout, first_sums = everyones[0]
    return all(
        layout == first_layout
        and torch.allclose(sums, first_sums, rtol=1e-5, atol=0, equal_nan=True)
        for layout, sums in everyones
    )


def find_data_parallel(parameters: Iterable[Tensor]) -> Any:
    """The DistributedDataParallel module that holds one of these parameters, or None.

    DDP leaves no mark on parameters, so this looks through all living objects: a tenth of a second.
    """
    from torch.nn.parallel import DistributedDataParallel

    wanted = {id(parameter) for parameter in parameters}
    for thing in gc.get_objects():
        if issubclass(type(thing), DistributedDataParallel) and any(
            id(parameter) in wanted for parameter in thing.parameters()
        ):
            return thing
    return None


def check_share(share: object) -> None:
    """Raise ValueError unless `share` is "auto", True or False."""
    if share != "auto" and not isinstance(share, bool):
        raise ValueError(f"share={share!r} must be 'auto', True or False")


class Sharing:
    """Decides for an optimizer, at its first step, whether its ranks share; solves accordingly.

    "auto" shares within the process group of the DistributedDataParallel module that holds the
    parameters, if there is one: without one no rank can know what the others do. In either case the
    ranks compare their gradients once, since a wrapped model may still be split among optimizers.
    """

    def __init__(self, share: Share, parameters: Iterable[Tensor]) -> None:
        self.share = share
        self._parameters = parameters
        self._group: Any = None
        self._shared: bool | None = None

    def _decide(self, problems: Sequence[Matrices]) -> bool:
        if self.share is False or world_size() == 1:
            return False
        if self.share == "auto":
            module = find_data_parallel(self._parameters)
            if module is None:
                return False
            self._group = module.process_group
        if world_size(self._group) == 1:
            return False
        agreed = gradients_agree(problems, self._group)
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
        return agreed

    def solve(self, problems: Sequence[Matrices]) -> None:
        """`stacks.solve` or `solve_shared`. Called on every rank even with nothing to solve."""
        if self._shared is None:
            self._shared = self._decide(problems)
        if self._shared:
            solve_shared(problems, self._group)
        else:
            solve(problems)
