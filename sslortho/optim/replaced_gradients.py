"""The mixin that replaces an optimizer's gradients before its own step."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sslortho.optim.aliasing import separate_gradients
from sslortho.optim.components import is_matrix
from sslortho.optim.flattened import check_still_matrices, find_matrices
from sslortho.optim.gradients import check_real, split_written, sum_partial_gradients
from sslortho.optim.group_options import check_dense, check_numbers
from sslortho.optim.mixed_gradients import has_tensor_option, one_by_one_where_needed
from sslortho.optim.momentum import means_orth_nesterov, set_aside, settle_nesterov
from sslortho.optim.never_compiled import PlainOptimizer


def _without_nones(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The options without those that are None by default, as the rate of transformers' Adafactor is."""
    return {n: v for n, v in options.items() if not (v is None and defaults.get(n, 0) is None)}


class ReplacedGradients(Optimizer):
    """Mixin in front of an optimizer class: each step replaces the gradients first.

    A subclass names its group options in `group_defaults`, checks them in `check_group` and
    replaces the gradients of groups with orth=True in `replace_gradients`.
    """

    group_defaults: dict[str, Any] = {"orth": True}
    """Group options of the class, with their defaults."""

    _foreach_by_default = False
    """Whether `foreach` was left to this class, which then takes True where torch allows it."""

    def __init__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        signature = inspect.signature(super().__init__)
        theirs = {name: value for name, value in kwargs.items() if name in signature.parameters}
        given = {**signature.bind_partial(params, *args, **theirs).arguments, **kwargs}
        defaults = {name: p.default for name, p in signature.parameters.items()}
        check_numbers(_without_nones(given, defaults))
        if means_orth_nesterov({**defaults, **given}, kwargs):
            kwargs.update(nesterov=False, orth_nesterov=True)
        # torch's own default is foreach on CUDA alone
        others = given.get("fused") or given.get("differentiable")
        if "foreach" in signature.parameters and "foreach" not in given and not others:
            self._foreach_by_default = True
            kwargs.update(foreach=None if has_tensor_option(given) else True)
        self._were_matrices: dict[int, list[bool]] = {}
        self._options = {key: kwargs.pop(key, value) for key, value in self.group_defaults.items()}
        super().__init__(params, *args, **kwargs)
        self.defaults.update(self._options)
        # torch's scaler leaves scaled gradients to fused optimizers, and those must not be replaced
        self._step_supports_amp_scaling = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as torch does, with this class's options filled in and checked."""
        if isinstance(param_group, dict):
            settle_nesterov(param_group, {**self.defaults, **self._options})
            for key, value in self._options.items():
                param_group.setdefault(key, value)
            if self._foreach_by_default and has_tensor_option(param_group):
                param_group.setdefault("foreach", None)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self.check_group(group)
            matrices = find_matrices(group["params"]) if group["orth"] else []
        except ValueError:
            self.param_groups.pop()
            raise
        self._were_matrices[len(self.param_groups) - 1] = matrices

    def check_group(self, group: dict[str, Any]) -> None:
        """Raise ValueError for an option of a group that cannot be honoured."""
        check_numbers(_without_nones(group, self.defaults))
        if group.get("differentiable"):
            raise ValueError(
                f"{type(self).__name__}(differentiable=True): gradients are replaced in place, outside autograd"
            )
        if not isinstance(group["orth"], bool):
            raise ValueError(f"orth={group['orth']!r} of a parameter group must be True or False")
        if group["orth"]:
            for parameter in group["params"]:
                if is_matrix(parameter):
                    check_real(parameter)

    def check_first_step(self) -> None:
        """Look at the groups before the first step; a subclass may warn of what is probably not meant."""

    def replace_gradients(self, groups: list[dict[str, Any]]) -> None:
        """Replace the gradients of these groups in place."""
        raise TypeError(f"{type(self).__name__} does not say how it replaces gradients")

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Run the closure, replace the gradients, step as the base class; return the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._were_matrices:
            check_still_matrices(self.param_groups, self._were_matrices)
            self._were_matrices = {}
            self.check_first_step()
        if isinstance(self, PlainOptimizer):  # ours take none, torch's say so themselves
            check_dense(self)
        self._separate_gradients()
        with torch.no_grad():
            self.replace_gradients([group for group in self.param_groups if group["orth"]])
        # torch wraps the `step` of each class that has an instance, to run the step hooks. Ours is
        # wrapped, so the base class's must be called unwrapped, or hooks would run twice.
        step = super().step.__func__  # pyright: ignore[reportFunctionMemberAccess]
        if getattr(step, "hooked", False):
            step = step.__wrapped__
        # ours sort gradients by their type
        by_torch = self._foreach_by_default and not isinstance(self, PlainOptimizer)
        with set_aside(self.state), one_by_one_where_needed(self.param_groups if by_torch else []):
            step(self)
        return loss

    def _separate_gradients(self) -> None:
        """Give the gradients that are going to be replaced memory of their own, if they lack it."""
        written: list[Tensor] = []
        kept: list[Tensor] = []
        for group in self.param_groups:
            matrices, others = split_written(group["params"])
            (written if group["orth"] else kept).extend(matrices)
            kept.extend(others)
        sum_partial_gradients(written)
        separate_gradients(written, kept)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_foreach_by_default": self._foreach_by_default}

    def __setstate__(self, state: dict[str, Any]) -> None:
        before = getattr(self, "param_groups", [])
        super().__setstate__(state)
        if "_were_matrices" not in self.__dict__:  # a copy
            self._were_matrices = {}
        self._options = {
            key: self.defaults.get(key, value) for key, value in self.group_defaults.items()
        }
        # a state that the plain optimizer saved lacks our options: each group keeps its own
        for i, group in enumerate(self.param_groups):
            own = before[i] if i < len(before) else self._options
            for key in self._options:
                group.setdefault(key, own[key])
