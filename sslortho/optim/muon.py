"""Muon for all parameters of a model (K. Jordan et al. 2024, https://kellerjordan.github.io/posts/muon)."""

import dataclasses
import functools
import warnings
from typing import Any

from torch import Tensor

from sslortho.optim.auxiliary_adamw import MOMENTS
from sslortho.optim.components import is_matrix
from sslortho.optim.gradients import Gradient, split_written
from sslortho.optim.group_options import is_finite_and_not_negative
from sslortho.optim.momentum import BUFFER, replace_by_momentum
from sslortho.optim.precision import in_float32
from sslortho.optim.scaled_step import ROW_MOMENT, ScaledStep
from sslortho.optim.update_scale import SCALES, normalise_rows_
from sslortho.optim.wrapped import MATRIX_OPTIONS, Orthogonal

THEIR_BUFFER = "momentum_buffer"
"""Name of the momentum in the state of other projects' Muon."""


class Muon(Orthogonal, ScaledStep):
    """Muon: momentum, then the nearest orthonormal matrix, then a step of set length; AdamW for the rest.

        matrix  = each matrix of the momentum of p     (see `sslortho.optim.components`)
        p       = p - lr * weight_decay * p - lr * scale * U V^T,      matrix = U S V^T

    Make it over `param_groups(model)`, which knows the layers: convolutions are one matrix a group,
    depthwise filters are only normalised, attention is split into heads if asked. Embeddings, tied heads,
    norms, biases and scales come in groups with orth=False, which AdamW steps (arXiv 1711.05101), as in
    KellerJordan/Muon's MuonWithAuxAdam. `Muon(model.parameters())` knows shapes alone: what has two
    dimensions or more is one matrix, flattened from the second on, embeddings too; the rest is AdamW's.

    A group that holds both kinds is made into two, the second for AdamW with a rate of its own. Schedules that
    multiply scale both rates. Loops that write one rate into every group give it to AdamW too, some 60 times
    its own: at the first step there is a warning. OneCycleLR and CyclicLR set rates and momentum: give max_lr
    as a list, one a group, and cycle_momentum=False.

    With polar="muon_bf16" the steps on parameters of two dimensions are those of torch.optim.Muon, with
    polar="muon" the same in float32. A difference by intent: gradients of norm below 1e-7 count here.

    Args:
        params: parameters or groups of them; every option below can be set per group.
        lr: absolute learning rate of matrices, by default KellerJordan's; may be a tensor.
        momentum: coefficient of the momentum before the orthonormalisation; 0 keeps no buffer.
        nesterov: look ahead by one gradient; no effect without momentum.
        weight_decay: 0 or more.
        decoupled_weight_decay: True shrinks the weights by `lr * weight_decay`, as the original; False
            adds `weight_decay * p` to the gradient before the momentum, as kozistr/pytorch_optimizer's Muon
            with weight_decouple=False. For AdamW's groups the same.
        scale: factor of the update by the sides of its matrix: "muon", sqrt(max(1, rows / columns));
            "moonlight", 0.2 sqrt(max(rows, columns)) (arXiv 2502.16982), with which rates of AdamW serve;
            "spectral", sqrt(rows / columns) (Scion, arXiv 2502.07529, on dense layers; its convolutions of
            k x k step k times less); "none". Columns of a convolution are in * kh * kw / groups.
        normalise_rows: NorMuon (arXiv 2510.05491): coefficient of a running second moment of each row, by
            whose root the row is divided; the paper's is 0.95. None for none. One number a row of state. The
            rows of an exact factor of full rank have length one where there are no more rows than columns, so
            it changes nothing there; it does on taller matrices, and with "muon" or "muon_bf16".
        adamw_lr: absolute learning rate of groups for AdamW that have no `lr` of their own.
        betas, eps: of AdamW; the defaults are those of KellerJordan/Muon.
        foreach: step parameters together, in few kernels; False: one by one.
        orth, polar, orth_components, orth_view, rank_tol, share, process_group: see `Orthogonal`. polar is
            "auto" by default, the exact factor: then every direction of a step has the length that
            `scale` says, in every layer, and directions of float32's rounding noise have none. The original's
            "muon_bf16" makes lengths of 0.7 to 1.2 of that.

    Memory: one buffer of the weights' size for matrices, two for the rest; of float32 for parameters of half
    precision too.

    Raises:
        ValueError: an option out of its range; in a step, a sparse gradient.
        RuntimeError: a step that AdamW has a part in, while a CUDA graph is captured.
    """

    group_defaults: dict[str, Any] = MATRIX_OPTIONS
    kept_in_float32 = (BUFFER, *MOMENTS, ROW_MOMENT)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; one that holds matrices and others becomes two groups. Options are checked."""
        number = len(self.param_groups)
        try:
            for part in self._split(param_group):
                super().add_param_group(part)
                # a rate that is read once, when groups are made
                self.param_groups[-1].pop("adamw_lr", None)
        except Exception:
            del self.param_groups[number:]
            raise

    def _split(self, group: Any) -> list[Any]:
        """The groups to be made of one; AdamW's have orth=False and a rate."""
        if not isinstance(group, dict) or isinstance(group.get("params"), (set, type(None))):
            return [group]  # torch raises its own errors
        given = group["params"]
        group["params"] = items = [given] if isinstance(given, Tensor) else list(given)
        if group.get("orth", self._options["orth"]) is True:
            # torch takes (name, parameter) too
            tensors: list[Any] = [
                item[-1] if isinstance(item, tuple) and item else item for item in items
            ]
            if not all(isinstance(tensor, Tensor) for tensor in tensors):
                return [group]
            sides = [is_matrix(tensor) for tensor in tensors]
            if any(sides) and not all(sides):
                return [_part(group, sides, True), *self._split(_part(group, sides, False))]
            if all(sides):
                return [group]
            group["orth"] = False
        group.setdefault("lr", group.get("adamw_lr", self.defaults["adamw_lr"]))
        return [group]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, also one of torch.optim.Muon or KellerJordan/Muon, whose buffer is the same mean.

        Raises ValueError, with nothing loaded, for a group option that cannot be honoured.
        """
        state = {
            key: {
                BUFFER if name == THEIR_BUFFER else name: value for name, value in entries.items()
            }
            for key, entries in state_dict.get("state", {}).items()
        }
        super().load_state_dict({**state_dict, "state": state})

    def check_group(self, group: dict[str, Any]) -> None:
        super().check_group(group)
        if group["scale"] not in SCALES:
            raise ValueError(
                f"scale={group['scale']!r} is not one of {', '.join(map(repr, SCALES))}"
            )
        beta = group["normalise_rows"]
        if beta is not None and not _is_coefficient(beta):
            raise ValueError(
                f"normalise_rows={beta!r} must be from 0 to below 1, such as 0.95; None for none"
            )
        betas = group["betas"]
        pair = isinstance(betas, (tuple, list)) and len(betas) == 2
        if not pair or not all(map(_is_coefficient, betas)):
            raise ValueError(f"betas={betas!r} must be two numbers, each from 0 to below 1")
        if not is_finite_and_not_negative(group["eps"]):
            raise ValueError(f"eps={group['eps']!r} must be 0 or more, and finite")
        if not isinstance(group["decoupled_weight_decay"], bool):
            value = group["decoupled_weight_decay"]
            raise ValueError(f"decoupled_weight_decay={value!r} must be True or False")
        if not is_finite_and_not_negative(group["adamw_lr"]):
            raise ValueError(f"adamw_lr={group['adamw_lr']!r} must be 0 or more, and finite")

    def check_momentum(self, group: dict[str, Any]) -> None:
        if not _is_coefficient(group["momentum"]):
            raise ValueError(
                f"momentum={group['momentum']!r} must be from 0 to below 1; 0 for none"
            )
        if not isinstance(group["nesterov"], bool):
            raise ValueError(f"nesterov={group['nesterov']!r} must be True or False")

    def collect_gradients(self, group: dict[str, Any]) -> list[Gradient]:
        gradients = super().collect_gradients(group)
        if group["normalise_rows"] is None:
            return gradients
        owners = {id(p.grad): p for p in group["params"]}
        return [
            dataclasses.replace(
                gradient,
                finish=functools.partial(
                    self._normalise_rows_, owners[id(gradient.grad)], group["normalise_rows"]
                ),
            )
            for gradient in gradients
        ]

    def _normalise_rows_(self, parameter: Tensor, beta: float, factors: Tensor) -> None:
        """Normalise the rows of a parameter's polar factors (number, rows, columns)."""
        state = self.state[parameter]
        number, rows, _ = factors.shape
        if ROW_MOMENT not in state:
            # of one dimension, so that no one takes it for a tensor of the parameter's shape
            state[ROW_MOMENT] = in_float32(factors.new_zeros(number * rows))
        normalise_rows_(factors, state[ROW_MOMENT].view(number, rows, 1), beta)

    def check_first_step(self) -> None:
        """Warn of a group that AdamW steps with the matrices' rate; scale="moonlight" is meant for that."""
        usual = self.defaults["adamw_lr"]
        rates = {_rate(g) for g in self.param_groups if g["orth"] and g["scale"] == "muon"}
        rates -= {0, None, usual}
        for group in self.param_groups:
            if not group["orth"] and _rate(group) in rates:
                warnings.warn(
                    f"AdamW steps the group {group.get('name', 'without a name')!r} with the matrices' rate "
                    f"{_rate(group):g}, which is large for it ({usual:g} is usual); give "
                    "param_groups lr_raw=..., or leave its lr out",
                    stacklevel=4,
                )
                return

    def apply_momentum(self, group: dict[str, Any]) -> None:
        parameters = [p for p in split_written(group["params"])[0] if p.grad is not None]
        if group["weight_decay"] and not group["decoupled_weight_decay"]:
            for p in parameters:
                assert p.grad is not None
                p.grad.add_(p, alpha=group["weight_decay"])
        if group["momentum"]:
            replace_by_momentum(parameters, self.state, group["momentum"], group["nesterov"])


def _rate(group: dict[str, Any]) -> float | None:
    """Rate of a group, before any schedule; None if it is a tensor, which may lie on a GPU."""
    rate = group.get("initial_lr", group["lr"])
    return None if isinstance(rate, Tensor) else rate


def _is_coefficient(value: Any) -> bool:
    """Whether a value is a number from 0 to below 1."""
    return is_finite_and_not_negative(value) and not isinstance(value, bool) and value < 1


def _part(group: dict[str, Any], sides: list[bool], matrices: bool) -> dict[str, Any]:
    """The part of a mixed group that holds matrices, or the other, which has AdamW's rate."""
    chosen = [i for i, side in enumerate(sides) if side is matrices]
    part = {**group, "params": [group["params"][i] for i in chosen]}
    names = group.get("names")
    if isinstance(names, list) and len(names) == len(sides):
        part["names"] = [names[i] for i in chosen]
    if not matrices:
        part.pop("lr", None)
    return part
