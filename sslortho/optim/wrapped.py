"""Optimizers that replace the gradients first and then step as their base class does.

Order of a step: the closure runs, the gradients are replaced in place, the base class steps, the
loss is returned. So weight decay, momentum and the LARS ratio act on the orthonormal gradient, as
in the paper (arXiv 2202.07052, section 2.2).
"""

import functools
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from sslortho.optim.components import check_components, is_matrix
from sslortho.optim.gradients import Gradient, collect, normalise_, replace, split_written
from sslortho.optim.lars import LARS
from sslortho.optim.momentum import BUFFER, check_orth_momentum, replace_by_momentum
from sslortho.optim.polar_factor import Matrices, check_method, check_rank_tol
from sslortho.optim.replaced_gradients import ReplacedGradients
from sslortho.optim.sharing import Share, Sharing, check_share
from sslortho.optim.wide_state import load_wide

REFUSED = {
    "LBFGS": "it evaluates the loss several times a step and needs the raw gradients",
    "SparseAdam": "a sparse gradient has no nearest orthonormal matrix",
    "Muon": "it orthonormalises its momentum already; sslortho.optim.Muon does so for every layer",
}
"""Optimizers that `orthogonal` does not take, and why."""


MATRIX_OPTIONS: dict[str, Any] = {
    "orth": True,
    "polar": "auto",
    "orth_components": 1,
    "orth_view": "rows",
    "rank_tol": None,
}
"""Group options of every optimizer that orthonormalises, with their defaults."""


class Orthogonal(ReplacedGradients):
    """Mixin that orthonormalises gradients (arXiv 2202.07052); `orthogonal` makes optimizers of it.

    Group options, also keyword arguments of the optimizer:
        orth: False leaves a group's gradients raw. Those of one dimension always stay raw.
        polar: "auto", "svd", "gram_eigh", "polar_express", "polar_express_fp16x3", "newton_schulz", or
            Muon's five steps, "muon" and "muon_bf16", which end at about 0.7 to 1.2 times an orthonormal
            matrix. On a GPU "auto" is "polar_express_fp16x3" where that can run.
        orth_components: number of matrices in each parameter: groups of a convolution, heads.
        orth_view: how they lie in it, "rows", "columns" or "transposed"; `optim.components` has
            the table.
        rank_tol: see `sslortho.optim.polar`; None for its default.
        orth_momentum: coefficient of a momentum that is taken before the orthonormalisation, as Muon
            does; 0 for none. It costs one more buffer of the parameter's size, of float32 for
            half-precision gradients. The base class keeps its own momentum after it:
            OrthSGD(momentum=0, orth_momentum=0.95) has Muon's order, momentum=0.9 and orth_momentum=0 the
            paper's; both may be set, or none. Gradients that stay raw have the base class's momentum
            alone, so give their groups one.
        orth_nesterov: whether that momentum looks ahead by one gradient. An optimizer, or a group, with
            `nesterov=True`, orth_momentum and no momentum of its own means this.

    Options of the optimizer, not of a group:
        share: whether ranks share the work, each solving some of the matrices. "auto": within
            `process_group`, or that of the DistributedDataParallel module that holds the parameters,
            if the ranks' gradients are the same at the first step, which takes a collective then.
            True: within `process_group`, by default all ranks, and an error if their gradients
            differ. False: every rank solves all it has, and nothing is sent. Gradients that are
            DTensors are never shared.
        process_group: the torch.distributed.ProcessGroup whose ranks share. None: "auto" looks for a
            DistributedDataParallel module, which must be made after `import sslortho.optim`. Not part
            of a copy or a pickle; there `share=True` within a given group becomes "auto".
    """

    group_defaults: dict[str, Any] = {
        **MATRIX_OPTIONS,
        "orth_momentum": 0.0,
        "orth_nesterov": False,
    }
    kept_in_float32: tuple[str, ...] = (BUFFER,)
    """Parts of the state that are float32 for half-precision parameters."""
    share: Share = "auto"
    process_group: Any = None

    def __init__(
        self,
        params: Any,
        *args: Any,
        share: Share = "auto",
        process_group: Any = None,
        **kwargs: Any,
    ) -> None:
        check_share(share, process_group)
        super().__init__(params, *args, **kwargs)
        self.share = share
        self.process_group = process_group
        self._sharing = Sharing()

    def _solve(self, problems: Sequence[Matrices]) -> None:
        parameters = [p for group in self.param_groups for p in group["params"]]
        self._sharing.solve(problems, self.share, self.process_group, parameters)

    def __getstate__(self) -> dict[str, Any]:
        # a process group cannot be pickled, and True without it would wait for ranks outside of it
        forgotten = self.share is True and self.process_group is not None
        share = "auto" if forgotten else self.share
        return {**super().__getstate__(), "share": share, "process_group": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_sharing" not in self.__dict__:  # a copy
            self._sharing = Sharing()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state as torch does, and keep in float32 what half-precision parameters have there.

        Raises ValueError, with nothing loaded, for a group option that cannot be honoured.
        """
        for saved, group in zip(
            state_dict.get("param_groups", ()), self.param_groups, strict=False
        ):
            self.check_group({**self.defaults, **group, **saved, "params": group["params"]})
        load_wide(self, super().load_state_dict, state_dict, self.kept_in_float32)

    def check_group(self, group: dict[str, Any]) -> None:
        super().check_group(group)
        check_method(group["polar"])
        check_rank_tol(group["rank_tol"], group["polar"])
        self.check_momentum(group)
        if group["orth"]:
            for parameter in group["params"]:
                if is_matrix(parameter):
                    check_components(parameter, group["orth_components"], group["orth_view"])

    def check_momentum(self, group: dict[str, Any]) -> None:
        """Raise ValueError for a momentum before the orthonormalisation that cannot be honoured."""
        check_orth_momentum(group)

    def collect_gradients(self, group: dict[str, Any]) -> list[Gradient]:
        """The gradients of a group that are to be replaced; nothing is written."""
        return collect(
            group["params"],
            group["polar"],
            components=group["orth_components"],
            view=group["orth_view"],
            rank_tol=group["rank_tol"],
        )

    def apply_momentum(self, group: dict[str, Any]) -> None:
        """Replace the gradients of a group by their momentum, if it has one here."""
        if group["orth_momentum"]:
            parameters = split_written(group["params"])[0]
            momentum, nesterov = group["orth_momentum"], group["orth_nesterov"]
            replace_by_momentum(parameters, self.state, momentum, nesterov)

    def replace_gradients(self, groups: list[dict[str, Any]]) -> None:
        # every gradient is checked before the first is written to
        gradients = [gradient for group in groups for gradient in self.collect_gradients(group)]
        for group in groups:
            self.apply_momentum(group)
        replace(gradients, self._solve)


class OrthSGD(Orthogonal, SGD):
    """Orthogonal-SGDM: `torch.optim.SGD` on orthonormal gradients (arXiv 2202.07052, eq. 6 and 7).

    Arguments are torch's and those of `Orthogonal`; `lr` is absolute. Raises ValueError for an option
    that cannot be honoured.
    """


class OrthAdam(Orthogonal, Adam):
    """Orthogonal-Adam: `torch.optim.Adam` on orthonormal gradients (arXiv 2202.07052, 3.1.2).

    Arguments are torch's and those of `Orthogonal`; `lr` is absolute. Raises ValueError for an option
    that cannot be honoured.
    """


class OrthAdamW(Orthogonal, AdamW):
    """`torch.optim.AdamW` on orthonormal gradients.

    Arguments are torch's and those of `Orthogonal`; `lr` is absolute. Raises ValueError for an option
    that cannot be honoured.
    """


class OrthLARS(Orthogonal, LARS):
    """Orthogonal-LARS: `LARS` on orthonormal gradients (arXiv 2202.07052, section 3.3).

    Arguments are those of `LARS` and `Orthogonal`; `lr` is absolute. Raises ValueError for an option that
    cannot be honoured.

    A weight that is all zeros moves by `lr * trust_coefficient` times the orthonormal gradient: with LARS's
    ratio of one it would move by `lr` times, which is thousands of times the step of any other weight. It grows
    slowly then, as small weights do under LARS; give it a group with trust_coefficient=None and a rate of its
    own if that is not meant.
    """

    def undefined_ratio(self, parameter: Tensor, group: dict[str, Any]) -> float:
        coefficient: float | None = group["trust_coefficient"]
        if coefficient is None or not (group["orth"] and is_matrix(parameter)):
            return 1.0
        return coefficient


class NormSGD(ReplacedGradients, SGD):
    """N-SGDM: SGD on gradients of norm one, layer by layer (arXiv 2202.07052, section 4.1)."""

    def replace_gradients(self, groups: list[dict[str, Any]]) -> None:
        for group in groups:
            normalise_(group["params"], per="layer")


class ComponentNormSGD(ReplacedGradients, SGD):
    """CN-SGDM: SGD on gradients whose rows have norm one (arXiv 2202.07052, section 4.1).

    A control: the paper reports that it diverges on most models.
    """

    def replace_gradients(self, groups: list[dict[str, Any]]) -> None:
        for group in groups:
            normalise_(group["params"], per="component")


_NAMED: dict[type[Optimizer], type[Optimizer]] = {
    SGD: OrthSGD,
    Adam: OrthAdam,
    AdamW: OrthAdamW,
    LARS: OrthLARS,
}


@functools.cache
def orthogonal(cls: type[Optimizer]) -> type[Any]:
    """Make the optimizer class that orthonormalises the gradients and then steps as `cls` does.

    The same class comes back for the same `cls`: `orthogonal(torch.optim.SGD) is OrthSGD`. Only the named
    ones (OrthSGD, OrthAdam, OrthAdamW, OrthLARS) can be pickled.

    Raises:
        ValueError: `cls` is not an optimizer class, replaces its gradients already, or is one of REFUSED.
    """
    if not (isinstance(cls, type) and issubclass(cls, Optimizer)):
        raise ValueError(f"orthogonal takes a subclass of torch.optim.Optimizer, got {cls!r}")
    if issubclass(cls, ReplacedGradients):
        raise ValueError(f"{cls.__name__} replaces its gradients already")
    for base in cls.__mro__:
        if base.__name__ in REFUSED:
            raise ValueError(f"orthogonal({cls.__name__}): {REFUSED[base.__name__]}")
    if cls in _NAMED:
        return _NAMED[cls]
    doc = f"`{cls.__name__}` on orthonormal gradients; see `Orthogonal`."
    return type(f"Orth{cls.__name__}", (Orthogonal, cls), {"__doc__": doc})
