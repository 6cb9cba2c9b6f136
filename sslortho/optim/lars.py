"""LARS in the dialect of facebookresearch/barlowtwins (arXiv 1708.03888, 2103.03230)."""

# torch exports its foreach functions to optimizers, but not by name
# pyright: reportPrivateImportUsage=false

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sslortho.optim.group_options import check_dense, check_numbers, take_foreach
from sslortho.optim.never_compiled import PlainOptimizer
from sslortho.optim.precision import all_in_float32, as_scalar, in_float32, round_into


def lars_direction(
    parameter: Tensor,
    gradient: Tensor,
    weight_decay: float,
    trust_coefficient: float | None,
    undefined: float = 1.0,
) -> Tensor:
    """`dp * trust_coefficient * ||p|| / ||dp||` with `dp = gradient + weight_decay * parameter`.

    The ratio is `undefined` where either norm is zero, and one where `trust_coefficient` is None. Shape of
    the parameter; float32 if that is of half precision. Does not wait for the device.
    """
    parameter, gradient = in_float32(parameter), in_float32(gradient)
    direction = gradient.add(parameter, alpha=weight_decay) if weight_decay else gradient
    if trust_coefficient is None:
        return direction
    parameter_norm = torch.linalg.vector_norm(parameter)
    direction_norm = torch.linalg.vector_norm(direction)
    ratio = trust_coefficient * parameter_norm / direction_norm
    defined = (parameter_norm > 0) & (direction_norm > 0)
    return direction * torch.where(defined, ratio, undefined)


def lars_ratios(
    parameters: list[Tensor],
    directions: list[Tensor],
    trust_coefficient: float,
    undefined: float = 1.0,
) -> list[Tensor]:
    """The ratio of each direction, without dimensions; `undefined` where either norm is zero."""
    parameter_norms = torch.stack(torch._foreach_norm(parameters))
    direction_norms = torch.stack(torch._foreach_norm(directions))
    ratios = trust_coefficient * parameter_norms / direction_norms
    defined = (parameter_norms > 0) & (direction_norms > 0)
    return list(torch.where(defined, ratios, torch.full_like(ratios, undefined)).unbind())


def lars_directions(
    parameters: list[Tensor],
    gradients: list[Tensor],
    weight_decay: float,
    trust_coefficient: float | None,
    undefined: float = 1.0,
) -> list[Tensor]:
    """Apply `lars_direction` to many parameters of one device and dtype, in few kernels."""
    parameters, gradients = all_in_float32(parameters), all_in_float32(gradients)
    if weight_decay:
        gradients = list(torch._foreach_add(gradients, parameters, alpha=weight_decay))
    if trust_coefficient is None:
        return gradients
    ratios = lars_ratios(parameters, gradients, trust_coefficient, undefined)
    return list(torch._foreach_mul(gradients, ratios))


def fewer_passes_pay(parameter: Tensor, rate: float | Tensor) -> bool:
    """Whether `step_in_fewer_passes` is taken: on a GPU, which waits for its memory. DTensors and rates that
    are tensors have no such form."""
    plain = type(parameter.grad) is Tensor and not isinstance(rate, Tensor)
    return plain and parameter.device.type == "cuda"


def step_in_fewer_passes(
    parameters: list[Tensor],
    gradients: list[Tensor],
    buffers: list[Tensor],
    group: dict[str, Any],
    exempt: bool,
    undefined: float = 1.0,
) -> None:
    """The step of `LARS` with 13 passes over the memory of all parameters, for 17.

    Products are added as they are formed, so the rounding differs from the plain form. All tensors are of
    float32 or more, and `buffers` is empty without momentum.
    """
    rate, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
    if group["maximize"]:
        gradients = list(torch._foreach_neg(gradients))
    if decay and not exempt:
        gradients = list(torch._foreach_add(gradients, parameters, alpha=decay))
    ratios: list[Tensor] | None = None
    if group["trust_coefficient"] is not None and not exempt:
        ratios = lars_ratios(parameters, gradients, group["trust_coefficient"], undefined)

    def add_directions(targets: list[Tensor], factor: float) -> None:
        if ratios is None:
            torch._foreach_add_(targets, gradients, alpha=factor)
        else:
            torch._foreach_addcmul_(targets, gradients, ratios, value=factor)

    if momentum:
        torch._foreach_mul_(buffers, momentum)
        add_directions(buffers, 1.0)
        torch._foreach_add_(
            parameters, buffers, alpha=-rate * (momentum if group["nesterov"] else 1)
        )
    if group["nesterov"] or not momentum:
        add_directions(parameters, -rate)


class LARS(PlainOptimizer):
    """Layer-wise adaptive rate scaling with momentum (arXiv 1708.03888, barlowtwins' dialect).

    For each parameter p with gradient g:

        dp = g + weight_decay * p
        dp = dp * trust_coefficient * ||p|| / ||dp||
        mu = momentum * mu + dp
        p  = p - lr * mu                      (nesterov: lr * (dp + momentum * mu))

    Half-precision parameters are updated in float32; p and mu are rounded at the end of a step.

    Args:
        params: parameters or groups of them; every option below can be set per group.
        lr: absolute learning rate (multiply one per 256 samples by batch_size / 256 yourself). May be a
            tensor; for a CUDA graph one on the device. The default is barlowtwins' rate of weights per
            256 samples; its biases take 0.0048.
        momentum: 0 keeps no buffer.
        weight_decay: added to the gradient before the ratio, so the ratio scales it too.
        trust_coefficient: None leaves the second line out, so there is no ratio.
        nesterov: look ahead along the momentum.
        exempt_1d: parameters of one dimension or none (biases, norms) take neither decay nor ratio.
        foreach: update the parameters of a group together, on a GPU also in fewer passes over its memory
            (`step_in_fewer_passes`); False: one by one, the plain form. None of them waits for the
            device. Few kernels do it; the product with the ratios takes one for each parameter.
        maximize: step along the gradient instead of against it, as in torch's optimizers; the decay
            still shrinks.

    Raises:
        ValueError: an option out of its range; in a step, a sparse gradient.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 0.2,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float | None = 1e-3,
        nesterov: bool = False,
        exempt_1d: bool = True,
        foreach: bool = True,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "nesterov": nesterov,
            "exempt_1d": exempt_1d,
            "foreach": foreach,
            "maximize": maximize,
        }
        take_foreach(defaults)
        check_numbers(defaults)
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            # saved before there were such options
            group.setdefault("foreach", True)
            group.setdefault("maximize", False)
            take_foreach(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as torch does, with its options checked."""
        take_foreach(param_group)
        options = {**self.defaults, **param_group}
        check_numbers(options)
        trust_coefficient = options["trust_coefficient"]
        if trust_coefficient is not None and not 0 < trust_coefficient < math.inf:
            raise ValueError(
                f"trust_coefficient={trust_coefficient} must be above 0, or None for no adaptation, "
                "and finite"
            )
        if options["nesterov"] and not options["momentum"]:
            # begins as torch's own message does, which other projects' tests look for
            raise ValueError(
                "Nesterov momentum requires a momentum: nesterov=True needs momentum above 0, got "
                f"momentum={options['momentum']}"
            )
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; returns the closure's loss.

        Raises ValueError for a sparse gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        check_dense(self)
        for group in self.param_groups:
            ready = [p for p in group["params"] if p.grad is not None]
            if group["foreach"]:
                self._update_together(ready, group)
            else:
                for parameter in ready:
                    self._update(parameter, parameter.grad, group)
        return loss

    def undefined_ratio(self, parameter: Tensor, group: dict[str, Any]) -> float:
        """The ratio of a parameter where a norm is zero: one, as in barlowtwins."""
        return 1.0

    def _buffer(self, parameter: Tensor) -> Tensor:
        """The momentum of a parameter, zero at first."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Update one parameter: the plain form of `_update_together`."""
        exempt = group["exempt_1d"] and parameter.ndim <= 1
        update = lars_direction(
            parameter,
            -gradient if group["maximize"] else gradient,
            0.0 if exempt else group["weight_decay"],
            None if exempt else group["trust_coefficient"],
            self.undefined_ratio(parameter, group),
        )
        if group["momentum"]:
            buffer = self._buffer(parameter)
            moved = in_float32(buffer).mul_(group["momentum"]).add_(update)
            round_into([buffer], [moved])
            update = update.add(moved, alpha=group["momentum"]) if group["nesterov"] else moved
        round_into([parameter], [in_float32(parameter).sub_(as_scalar(group["lr"]) * update)])

    def _update_together(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update the parameters of a group with foreach functions, those alike in one call."""
        alike: dict[tuple, list[Tensor]] = defaultdict(list)
        for p in parameters:
            exempt = bool(group["exempt_1d"]) and p.ndim <= 1
            assert p.grad is not None
            undefined = self.undefined_ratio(p, group)
            alike[exempt, undefined, p.device, p.dtype, type(p.grad), p.grad.dtype].append(p)
        for (exempt, undefined, *_), params in alike.items():
            gradients = [p.grad for p in params if p.grad is not None]
            if fewer_passes_pay(params[0], group["lr"]):
                buffers = [self._buffer(p) for p in params] if group["momentum"] else []
                wide, moved = all_in_float32(params), all_in_float32(buffers)
                step_in_fewer_passes(
                    wide, all_in_float32(gradients), moved, group, exempt, undefined
                )
                round_into(buffers, moved)
                round_into(params, wide)
                continue
            updates = lars_directions(
                params,
                list(torch._foreach_neg(gradients)) if group["maximize"] else gradients,
                0.0 if exempt else group["weight_decay"],
                None if exempt else group["trust_coefficient"],
                undefined,
            )
            if group["momentum"]:
                buffers = [self._buffer(p) for p in params]
                moved = all_in_float32(buffers)
                torch._foreach_mul_(moved, group["momentum"])
                torch._foreach_add_(moved, updates)
                round_into(buffers, moved)
                if group["nesterov"]:
                    updates = torch._foreach_add(updates, moved, alpha=group["momentum"])
                else:
                    updates = moved
            wide = all_in_float32(params)
            torch._foreach_sub_(wide, torch._foreach_mul(updates, as_scalar(group["lr"])))
            round_into(params, wide)
