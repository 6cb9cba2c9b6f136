"""Checkpoints that a thread writes from copies in the host's memory, while training goes on."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from sslortho.train.checkpoint import CheckpointFolder


class HostCopies:
    """Copies of tensors in the host's memory, which is reused from save to save.

    For tensors on a GPU the memory is pinned: the copies take their place in the GPU's queue, and no call
    waits for them.
    """

    def __init__(self) -> None:
        self.memory: list[tuple[bool, Tensor]] = []
        """Whether it is pinned, and the memory."""
        self.made: dict[tuple, tuple[Tensor, Tensor]] = {}
        """Each tensor of this save, kept so that no other takes its address, and its copy."""
        self.place = 0

    def __call__(self, tensor: Tensor) -> Tensor:
        """Copy a tensor; one that appears twice (a tied weight) once."""
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in self.made:
            return self.made[key][1]
        copy = self._take_memory(tensor).copy_(tensor.detach(), non_blocking=True)
        self.made[key] = tensor, copy
        return copy

    def _take_memory(self, tensor: Tensor) -> Tensor:
        pinned = tensor.device.type == "cuda"
        place, self.place = self.place, self.place + 1
        if place < len(self.memory):
            kept_pinned, kept = self.memory[place]
            same = (kept_pinned, kept.shape, kept.stride(), kept.dtype)
            if same == (pinned, tensor.shape, tensor.stride(), tensor.dtype):
                return kept
        new = torch.empty_like(tensor, device="cpu", requires_grad=False, pin_memory=pinned)
        self.memory[place : place + 1] = [(pinned, new)]
        return new

    def finish(self) -> torch.cuda.Event | None:
        """End a save. An event after which the copies have their values; None if they have them now.

        The next call overwrites the first copy, and so on.
        """
        devices = {tensor.device for tensor, _ in self.made.values() if tensor.is_cuda}
        self.made, self.place = {}, 0
        if not devices:
            return None
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(devices.pop()))
        return event


class CheckpointWriter:
    """Writes checkpoints one after the other in a thread. An error in it is raised by the next call.

    Args:
        folder: where they go; it must not be asked for its content before `wait`.
    """

    def __init__(self, folder: CheckpointFolder) -> None:
        self.folder = folder
        self.pool = ThreadPoolExecutor(1, "checkpoint")
        self.under_way: Future[None] | None = None

    def save(
        self, state: dict[str, Any], step: int, arrival: torch.cuda.Event | None = None
    ) -> None:
        """Begin to write a state of tensors in the host's memory that nothing changes before `wait`.

        arrival: after which the tensors have their values.
        """
        self.wait()
        self.under_way = self.pool.submit(self._write, state, step, arrival)

    def _write(self, state: dict[str, Any], step: int, arrival: torch.cuda.Event | None) -> None:
        if arrival is not None:
            arrival.synchronize()
        self.folder.save(state, step)

    def check(self) -> None:
        """Raise what the thread raised, if it has; do not wait for it."""
        if self.under_way is not None and self.under_way.done():
            self.wait()

    def wait(self) -> None:
        """Wait until what was begun is on the disk. Raises OSError if it could not be written."""
        if (under_way := self.under_way) is not None:
            try:
                under_way.result()
            finally:
                if under_way.done():  # no Ctrl-C came in between
                    self.under_way = None

    def close(self) -> None:
        """Take no more checkpoints. Does not wait for one under way: `wait` does."""
        self.pool.shutdown(wait=False)
