"""Steps whose gradients are not finite: found without idling, undone, and counted."""

from collections import defaultdict

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sslortho.train.backward import NonFiniteError, name_offenders
from sslortho.train.progress import Progress

SMALL_SCALE = 1.0
"""Scale of the gradient scaler of fp16 below which gradients that are not finite count as bad: torch's
begins at 65,536 and is halved at each overflow, which in the beginning is as it should be."""


class Arriving:
    """A number on its way from the device.

    The copy begins at once and takes its place in the GPU's queue. What the host queues after it, before
    it asks for the number, keeps the GPU at work meanwhile.

    Args:
        value: a tensor of one element.
    """

    def __init__(self, value: Tensor) -> None:
        self.host, self.event = value.detach(), None
        if value.device.type == "cuda":
            self.host = torch.empty_like(self.host, device="cpu", pin_memory=True)
            self.host.copy_(value, non_blocking=True)
            self.event = torch.cuda.Event()
            self.event.record()

    def read(self) -> float:
        """The number; waits for what was queued before it, not for what came after."""
        if self.event is not None:
            self.event.synchronize()
        return float(self.host)


class KeptBuffers:
    """Copies of a module's buffers before a step, in memory that is reused from step to step."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.copies: list[Tensor] = []

    @torch.no_grad()
    def keep(self) -> None:
        """Copy the buffers, those of a type in one call."""
        buffers = list(self.module.buffers())
        if [_kind(b) for b in buffers] == [_kind(c) for c in self.copies]:
            _copy_all(buffers, self.copies)
        else:
            self.copies = [b.clone() for b in buffers]

    @torch.no_grad()
    def restore(self) -> None:
        """Give the buffers the values that they had at `keep`."""
        _copy_all(self.copies, list(self.module.buffers()))


def _kind(tensor: Tensor) -> tuple:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _copy_all(sources: list[Tensor], targets: list[Tensor]) -> None:
    alike: dict[tuple, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
    for source, target in zip(sources, targets, strict=True):
        into, out_of = alike[target.dtype, target.device]
        into.append(target)
        out_of.append(source)
    for into, out_of in alike.values():
        torch._foreach_copy_(into, out_of)  # pyright: ignore[reportPrivateImportUsage]


def count_bad_step(
    progress: Progress,
    accelerator: Accelerator,
    task: nn.Module,
    metrics: dict[str, Tensor],
    most: int,
) -> bool:
    """Count a step whose gradients are not finite; every rank must call.

    Returns True if they overflowed since the scaler of fp16 still looks for its scale: no fault, and not
    counted. Raises NonFiniteError at the `most`-th in a row.
    """
    if accelerator.scaler and accelerator.scaler.get_scale() >= SMALL_SCALE:
        return True
    progress.bad_steps += 1
    if progress.bad_steps >= most:
        offenders = name_offenders(task)
        what = f"the gradients of {offenders} are" if offenders else "the norm of all gradients is"
        raise NonFiniteError(
            f"step {progress.step + 1}: {what} not finite (loss {float(metrics['loss']):g}), for the "
            f"{progress.bad_steps}th step in a row; the last checkpoint is untouched. "
            "Lower lr, raise warmup_epochs, or use mixed_precision bf16 or no"
        )
    return False
