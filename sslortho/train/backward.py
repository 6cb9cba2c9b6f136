"""Gradients of one optimizer step, from one batch or several."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sslortho.data import Batch
from sslortho.train.batch_norm import SingleSampleError, describe_single
from sslortho.train.sharding import hold_gradients, is_split, whole


class NonFiniteError(RuntimeError):
    """Too many steps in a row had non-finite gradients."""


def _hold(task: nn.Module, accelerator: Accelerator) -> AbstractContextManager[Any]:
    """Keep gradients on their rank until the last batch of the step."""
    return hold_gradients(task) if is_split(task) else accelerator.no_sync(task)


def accumulate_gradients(
    task: nn.Module,
    batches: Iterable[Batch],
    count: int,
    accelerator: Accelerator,
    around_first: AbstractContextManager[Any],
) -> tuple[dict[str, Tensor], int]:
    """Run forward and backward of `count` batches; mean metrics, and number of images on this rank."""
    sums: dict[str, Tensor] = {}
    images = 0
    for i, batch in enumerate(batches):
        held = _hold(task, accelerator) if i < count - 1 else nullcontext()
        with held, around_first if i == 0 else nullcontext():
            try:
                metrics = task(batch.views, batch.labels)
            except ValueError as error:  # torch's, of a map of one pixel
                if "more than 1 value per channel" in str(error):
                    raise SingleSampleError(describe_single()) from error
                raise
            accelerator.backward(metrics["loss"] / count)
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0) + value.detach() / count
        images += len(batch.labels)
    return sums, images


def name_offenders(task: nn.Module, most: int = 5) -> str:
    """Names of the parameters whose gradients are not finite, empty if none are; every rank must call.

    There are none if all gradients are finite, but so large that their norm is not.
    """
    bad = [
        name
        for name, parameter in task.named_parameters()
        if parameter.grad is not None and not torch.isfinite(whole(parameter.grad)).all()
    ]
    return ", ".join(bad[:most]) + (f" and {len(bad) - most} more" if len(bad) > most else "")
