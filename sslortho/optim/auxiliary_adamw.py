"""AdamW (arXiv 1711.05101) as a part of an optimizer that steps its matrices otherwise."""

# torch exports its foreach functions to optimizers, but not by name
# pyright: reportPrivateImportUsage=false

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from sslortho.optim.never_compiled import never_compiled
from sslortho.optim.precision import all_in_float32, as_scalar, in_float32, round_into

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Names in a parameter's state, those of torch.optim.AdamW. float32 for half-precision parameters."""


def _begin(state: dict[str, Any], parameter: Tensor) -> None:
    """Fill in the state of a parameter at its first step, and after an old one was loaded."""
    if not isinstance(state.get("step"), Tensor):
        state["step"] = torch.tensor(float(state.get("step", 0)), dtype=torch.float32)
    for name in MOMENTS:
        if name not in state:
            state[name] = torch.zeros_like(in_float32(parameter))


@never_compiled
def step_by_adamw(
    parameters: Iterable[Tensor], states: Mapping[Tensor, dict[str, Any]], group: dict[str, Any]
) -> None:
    """One step of `torch.optim.AdamW`, with its arithmetic, for parameters of any shape.

    Half-precision parameters are stepped in float32 and rounded at the end. Never compiled: torch's
    compiled form needs step counts on the device.

    Args:
        parameters: those without a gradient are left alone.
        states: state of the optimizer by parameter.
        group: its lr (absolute), betas, eps, weight_decay, decoupled_weight_decay and foreach.

    Raises ValueError for a sparse gradient, and RuntimeError while a CUDA graph is captured.
    """
    alike: dict[tuple, list[Tensor]] = defaultdict(list)
    for p in parameters:
        if p.grad is None:
            continue
        if p.grad.layout != torch.strided:
            raise ValueError(
                f"the gradient of a parameter of shape {tuple(p.shape)} is {p.grad.layout}; AdamW takes "
                "dense ones; use sparse=False"
            )
        _begin(states[p], p)
        alike[p.device, p.dtype, type(p.grad)].append(p)
    for params in alike.values():
        _check_not_captured(params[0])
    for params in alike.values():
        _step_alike(params, [states[p] for p in params], group)


def _check_not_captured(parameter: Tensor) -> None:
    """Raise RuntimeError while a CUDA graph is captured: step counts are on the host, as in torch's default."""
    if parameter.is_cuda and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "Muon's AdamW cannot be captured in a CUDA graph: each replay would repeat the bias correction "
            "of one step. Take the step outside of the graph, or give these parameters to "
            "torch.optim.AdamW(capturable=True)"
        )


def _step_alike(params: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]) -> None:
    """Step parameters of one device and dtype."""
    wide = all_in_float32(params)
    gradients = all_in_float32([p.grad for p in params if p.grad is not None])
    decay = group["weight_decay"]
    if decay and not group["decoupled_weight_decay"]:
        gradients = list(torch._foreach_add(gradients, wide, alpha=decay))
        decay = 0.0
    rate = as_scalar(group["lr"])
    beta1, beta2 = group["betas"]
    adamw(
        wide,
        gradients,
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        [state["step"] for state in states],
        foreach=bool(group["foreach"]) and not isinstance(rate, Tensor),  # torch refuses both
        has_complex=any(p.is_complex() for p in params),
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=rate,
        weight_decay=decay,
        eps=group["eps"],
        maximize=False,
    )
    round_into(params, wide)
