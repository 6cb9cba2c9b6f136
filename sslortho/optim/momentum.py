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

from sslortho.optim.gradients import is_sharded
from sslortho.optim.precision import HALF_PRECISION, all_in_float32, in_float32, round_into

BUFFER = "orth_momentum_buffer"
"""Name of the buffer in a parameter's state: one more tensor of its shape. Its type is the gradient's, and
float32 for half-precision gradients."""

FLOAT16_SCALE = 2.0**15
"""Largest entry of a momentum that is written to a float16 gradient, of the 65,504 that there may be."""


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

        buffer   = momentum * buffer + (1 - momentum) * gradient
        gradient = buffer               (nesterov: (1 - momentum) * gradient + momentum * buffer)

    The buffer is a running mean, as those of torch.optim.Muon and KellerJordan/Muon, and not the sum that
    torch.optim.SGD keeps. The polar factors are the same as long as the coefficient is; where it changes, as in
    a warm-up of the momentum, a mean keeps the scale of the gradients.

    Args:
        gradients: float32 or float64, of any shapes.
        buffers: alike; updated in place.
        momentum: coefficient, from 0 to below 1.
        nesterov: whether to look ahead by one gradient.
    """
    if not gradients:
        return
    gradients, buffers = list(gradients), list(buffers)
    torch._foreach_lerp_(buffers, gradients, 1 - momentum)
    if nesterov:
        torch._foreach_lerp_(gradients, buffers, momentum)
    elif is_sharded(gradients[0]):  # DTensors have no such foreach function
        for gradient, buffer in zip(gradients, buffers, strict=True):
            gradient.copy_(buffer)
    else:
        torch._foreach_copy_(gradients, buffers)


def write_in_range(gradients: Sequence[Tensor], momenta: Sequence[Tensor]) -> None:
    """Write momenta of float32 to half-precision gradients, for an orthonormalisation; no effect on others.

    float16 has no numbers below 6e-8, and a mean of small gradients is smaller than they are. So each float16
    gradient gets FLOAT16_SCALE as its largest finite entry. Its polar factor does not depend on that.

    Args:
        gradients: of one type.
        momenta: of the same shapes, the gradients themselves unless they are of half precision.
    """
    momenta = list(momenta)
    if gradients and gradients[0].dtype == torch.float16:
        for i, momentum in enumerate(momenta):
            largest = torch.where(momentum.isfinite(), momentum.abs(), 0).amax()
            momenta[i] = momentum / torch.where(largest > 0, largest, 1) * FLOAT16_SCALE
    round_into(list(gradients), momenta)


def means_orth_nesterov(options: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Whether `nesterov=True` is given, and can only mean the momentum before the orthonormalisation.

    Args:
        options: all options of an optimizer or of a group, with their defaults.
        given: those that were given.

    Raises ValueError where `orth_nesterov=False` is given too.
    """
    only = bool(options.get("orth_momentum")) and options.get("momentum") == 0
    if not given.get("nesterov") or not only:
        return False
    if given.get("orth_nesterov") is False:
        raise ValueError(
            "nesterov=True with momentum=0 means orth_nesterov=True, but orth_nesterov=False is given; "
            "leave one of them out"
        )
    return True


def settle_nesterov(group: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """Fill in what a group's own options mean for its two forms of Nesterov's momentum, in place.

    `nesterov=True` may mean `orth_nesterov`, as for an optimizer; and a group with orth_momentum=0 has none
    to look ahead along, whatever the optimizer's default is.
    """
    if "orth_momentum" not in defaults:
        return
    if means_orth_nesterov({**defaults, **group}, group):
        group.update(nesterov=False, orth_nesterov=True)
    elif group.get("orth_momentum") == 0:
        group.setdefault("orth_nesterov", False)


def replace_by_momentum(
    parameters: Iterable[Tensor],
    states: Mapping[Tensor, dict[str, Any]],
    momentum: float,
    nesterov: bool,
) -> None:
    """Replace the gradients of parameters by their momentum, in place, those alike in one call.

    Half-precision gradients have their buffer in float32, since bfloat16's 8 bits are too few for a mean of
    many. They become the momentum times a number (`write_in_range`).

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
            wide = torch.promote_types(gradient.dtype, torch.float32)
            state[BUFFER] = torch.zeros_like(gradient, dtype=wide)
        elif state[BUFFER].dtype in HALF_PRECISION:  # saved before it was float32
            state[BUFFER] = in_float32(state[BUFFER])
        gradients, buffers = alike[gradient.device, gradient.dtype, type(gradient)]
        gradients.append(gradient)
        buffers.append(state[BUFFER])
    for gradients, buffers in alike.values():
        wide = all_in_float32(gradients)
        apply_momentum_(wide, buffers, momentum, nesterov)
        write_in_range(gradients, wide)


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
