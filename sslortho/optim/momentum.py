"""Momentum before the orthonormalisation, the order of Muon (K. Jordan et al., 2024)."""

# torch exports its foreach functions to optimizers, but not by name
# pyright: reportPrivateImportUsage=false

import contextlib
import numbers
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sslortho.optim.precision import HALF_PRECISION

BUFFER = "orth_momentum_buffer"
"""Name of the buffer in a parameter's state: one more tensor of its shape and type."""


def check_orth_momentum(group: dict[str, Any]) -> None:
    """Raise ValueError for a coefficient outside of 0 to 1, and for Nesterov's form without one."""
    momentum, nesterov = group["orth_momentum"], group["orth_nesterov"]
    if not isinstance(momentum, numbers.Real) or not 0 <= float(momentum) < 1:
        raise ValueError(f"orth_momentum={momentum!r} must be from 0 to below 1; 0 for none")
    if not isinstance(nesterov, bool):
        raise ValueError(f"orth_nesterov={nesterov!r} must be True or False")
    if nesterov and not momentum:
        raise ValueError("orth_nesterov=True has no effect on orth_momentum=0; leave it out")


def apply_momentum_(
    gradients: Sequence[Tensor], buffers: Sequence[Tensor], momentum: float, nesterov: bool
) -> None:
    """Replace gradients by their momentum, in place.

        buffer   = momentum * buffer + gradient
        gradient = buffer                                   (nesterov: gradient + momentum * buffer)

    The buffer is the sum that torch.optim.SGD keeps, so that small gradients of half precision stay in range.
    torch.optim.Muon keeps 1 - momentum times as much, a mean. The polar factor is the same; gradients of
    float32 and float64 become that mean, so that methods of low precision round as they do there.

    Args:
        gradients: of any shapes and types.
        buffers: alike; updated in place.
        momentum: coefficient, from 0 to below 1.
        nesterov: whether to look ahead by one gradient.
    """
    if not gradients:
        return
    gradients, buffers = list(gradients), list(buffers)
    torch._foreach_mul_(buffers, momentum)
    torch._foreach_add_(buffers, gradients)
    if nesterov:
        torch._foreach_add_(gradients, buffers, alpha=momentum)
    else:
        torch._foreach_copy_(gradients, buffers)
    if exact := [gradient for gradient in gradients if gradient.dtype not in HALF_PRECISION]:
        torch._foreach_mul_(exact, 1 - momentum)


def means_orth_nesterov(options: Mapping[str, Any]) -> bool:
    """Whether `nesterov=True` can only mean the momentum before the orthonormalisation."""
    return bool(options.get("orth_momentum")) and options.get("momentum") == 0


def replace_by_momentum(
    parameters: Iterable[Tensor],
    states: Mapping[Tensor, dict[str, Any]],
    momentum: float,
    nesterov: bool,
) -> None:
    """Replace the gradients of parameters by their momentum, in place, those alike in one call.

    Args:
        parameters: those without a gradient are left alone, and so are their buffers.
        states: state of the optimizer by parameter; a buffer is zero at first.
        momentum, nesterov: see `apply_momentum_`.
    """
    alike: dict[tuple, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None or not gradient.numel():
            continue
        state = states[parameter]
        if BUFFER not in state:
            state[BUFFER] = torch.zeros_like(gradient)
        gradients, buffers = alike[gradient.device, gradient.dtype, type(gradient)]
        gradients.append(gradient)
        buffers.append(state[BUFFER])
    for gradients, buffers in alike.values():
        apply_momentum_(gradients, buffers, momentum, nesterov)


@contextlib.contextmanager
def set_aside(states: dict[Tensor, dict[str, Any]]) -> Iterator[None]:
    """Take the buffers out of an optimizer's state while its base class steps.

    Classes of torch take a state that is not empty for one that they have begun.
    """
    held = {p: state.pop(BUFFER) for p, state in states.items() if BUFFER in state}
    try:
        yield
    finally:
        for parameter, buffer in held.items():
            states[parameter][BUFFER] = buffer
