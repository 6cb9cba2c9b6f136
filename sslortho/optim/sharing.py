"""Sharing matrices among ranks: each rank solves some of them, and every rank gets all results.

For ranks that hold the same gradients, as DistributedDataParallel leaves them. One rank solves a matrix
and sends the result to the others as it is, so all ranks hold the same bits.
"""

import heapq
import warnings
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from sslortho.optim.data_parallel import (
    IMPORTED_LATE,
    find_data_parallel,
    lets_ranks_end_early,
)
from sslortho.optim.polar_factor import Matrices, solve

Share = Literal["auto"] | bool

MESSAGE = 2**23
"""Entries that a rank gathers into one message before it starts another: 32 MiB of float32, about
DDP's bucket. A larger matrix is a message of its own. While one message is under way the next one's
matrices are solved."""

PADDING = 2
"""An all-gather sends as much from every rank as the largest has to send. If that is more than this
many times what there is to send, each rank broadcasts its own instead."""


def world_size(group: Any = None) -> int:
    """Number of ranks of a process group, by default the one of all ranks; 1 without one."""
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


def _split_into_rounds(
    problems: Sequence[Matrices], owner: list[int], ranks: int
) -> list[list[list[int]]]:
    """Messages of every rank, [round][rank] -> indices into `problems`, of about MESSAGE entries."""
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
    """Handles of the communication, to be waited for."""

    def _places(self, rank: int) -> list[tuple[Matrices, Tensor]]:
        """Each of a rank's problems, and the part of its buffer that holds the result."""
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
        """Wait for the communication, and write every rank's results to where they belong."""
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
        # torch 2.14 has another name for it, and warns of the older one
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        message.works.append(gather(received.view(-1), mine, group=group, async_op=True))
        return message
    message = _Message(problems, indices, [like.new_empty(size) for size in sizes], [])
    message.solve(rank)
    for sender, buffer in enumerate(message.buffers):
        if buffer.numel():
            source = dist.get_global_rank(group, sender) if group is not None else sender
            message.works.append(dist.broadcast(buffer, source, group=group, async_op=True))
    return message


def solve_shared(problems: Sequence[Matrices], group: Any = None) -> None:
    """Solve as `solve` does, the work shared among the ranks of a process group, by default all.

    A collective: every rank of the group must call it with the same problems.
    """
    ranks = world_size(group)
    kinds: dict[tuple, list[Matrices]] = {}
    for problem in problems:
        kinds.setdefault((problem.stack.device, problem.stack.dtype), []).append(problem)
    for alike in kinds.values():
        owner = deal([problem.cost for problem in alike], ranks)
        under_way = None
        for indices in _split_into_rounds(alike, owner, ranks):
            message = _send(alike, indices, group)
            if under_way is not None:
                under_way.unpack()
            under_way = message
        if under_way is not None:
            under_way.unpack()


def gradients_agree(problems: Sequence[Matrices], group: Any = None) -> bool:
    """Whether all ranks of a process group hold the same gradients.

    A collective: every rank of the group must call it. Compares shapes, memory orders, and three sums
    of each gradient.
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


def check_share(share: object, process_group: object = None) -> None:
    """Raise ValueError for a `share` or a `process_group` that cannot be honoured."""
    if share != "auto" and not isinstance(share, bool):
        raise ValueError(f"share={share!r} must be 'auto', True or False")
    if process_group is None:
        return
    if share is False:
        raise ValueError(
            f"process_group={process_group!r} has no effect with share=False; leave one of them out"
        )
    if not (dist.is_available() and isinstance(process_group, dist.ProcessGroup)):
        raise ValueError(
            f"process_group={process_group!r} must be a torch.distributed.ProcessGroup that this rank "
            "is in, such as torch.distributed.group.WORLD; leave it out for the default"
        )


class Sharing:
    """Decides for an optimizer, at its first step, whether its ranks share; solves accordingly.

    Made with the optimizer: `torch.compile` of torch 2.11 fails on one that is made within a step.

    "auto" shares within the given process group, or else within that of the DistributedDataParallel
    module that holds the parameters. With neither it does not share, since no rank can know what the
    others do. In every case the ranks compare their gradients once, since a wrapped model may still be
    split among optimizers.
    """

    def __init__(self) -> None:
        self.share: Share | None = None
        self.process_group: Any = None
        self._shared: bool | None = None
        self._module: weakref.ref[DistributedDataParallel] | None = None

    def _may_be_alone(self, parameters: Iterable[Tensor]) -> bool:
        """Whether other ranks may not call at this step; all that do call say the same."""
        module = None if self._module is None else self._module()
        if module is None and self._shared is None:  # at the first step alone
            module = find_data_parallel(parameters)
            self._module = None if module is None else weakref.ref(module)
        return module is not None and lets_ranks_end_early(module)

    def _find_group(self, problems: Sequence[Matrices], parameters: Iterable[Tensor]) -> bool:
        """Whether there is a process group to share in; sets it."""
        if self.share is True or self.process_group is not None:
            return True
        module = find_data_parallel(parameters)
        if module is not None:
            self.process_group = module.process_group
        elif IMPORTED_LATE and problems:
            warnings.warn(
                "share='auto' knows a DistributedDataParallel module only if sslortho.optim was imported "
                "before it was made, and here torch.distributed ran first; import sslortho.optim "
                "earlier, or give process_group=..., or share=False",
                stacklevel=2,
            )
        return module is not None

    def _decide(self, problems: Sequence[Matrices], parameters: Iterable[Tensor]) -> bool | None:
        """Whether to share from now on; None while all gradients are zero, which tells nothing.

        torch.distributed.checkpoint makes such a step before it loads the state of an optimizer.
        """
        if self.share is False or world_size() == 1:
            return False
        if not self._find_group(problems, parameters):
            return False
        if world_size(self.process_group) == 1:
            return False
        agreed = gradients_agree(problems, self.process_group)
        if agreed and problems and not any(bool(problem.stack.any()) for problem in problems):
            return None
        if not agreed and self.share is True:
            raise ValueError(
                "share=True, but the ranks' gradients differ; average them before the step (as "
                "DistributedDataParallel does), or use share=False"
            )
        if not agreed:
            warnings.warn(
                "the ranks' gradients differ, so each rank orthonormalises all of its own; give "
                "share=False if they are meant to differ",
                stacklevel=2,
            )
        return agreed

    def solve(
        self,
        problems: Sequence[Matrices],
        share: Share,
        process_group: Any,
        parameters: Iterable[Tensor],
    ) -> None:
        """Solve, shared or not. To be called on every rank, even with nothing to solve.

        Args:
            problems: what to solve.
            share, process_group: the optimizer's options, read at the first step and when `share` changes.
            parameters: all of the optimizer's.
        """
        automatic = share == "auto" and process_group is None and world_size() > 1
        if automatic and self._may_be_alone(parameters):
            solve(problems)
            return
        if self._shared is None or self.share != share:
            self.share, self.process_group, self._shared = share, process_group, None
            self._shared = self._decide(problems, parameters)
        if self._shared:
            solve_shared(problems, self.process_group)
        else:
            solve(problems)
