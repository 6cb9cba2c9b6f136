"""Adapters: all that the suite needs to know of an optimizer."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Any, Literal

from torch import Tensor, nn

Build = Callable[[nn.Module, float], Any]
"""(model, learning rate) -> something with `step()`: an optimizer over all parameters of the model."""

Scale = Callable[[Tensor, Sequence[Tensor]], float]
"""(parameter before the step, its polar factors) -> factor between them and a step of rate 1."""


@dataclass(frozen=True)
class Option:
    """One way to set the size of the update."""

    build: Build
    scale: Scale


@dataclass(frozen=True)
class Adapter:
    """An optimizer, set up as its documentation says.

    Args:
        title: head of its column.
        package: distribution whose version counts.
        options: ways to set the size of the update, the default first.
        available: whether it can be imported here.
        order: whether momentum comes before the orthonormalisation or after it.
        momentum: its coefficient.
        nesterov: whether it looks ahead by one gradient.
        accuracy: largest distance of a singular value of the update from the promised one, relative. The
            five steps of Muon promise 0.5 to 1.5 (K. Jordan et al., 2024).
        sorts: who decides which parameters are orthonormalised: the package, or you as its documentation
            asks; then `build` does it.
        orthogonal: whether the update is an orthonormal matrix times a number. Others are asked for its
            size alone.
        split_qkv: how to split fused q, k and v, and into how many matrices for a layer of two heads;
            None if there is no option for it.
        transfer: key of the option that promises the same best rate for every width; None if none does.
        layerwise: whether the raw update of a layer has a size of its own too, as LARS's; then an update
            does not tell a raw vector from an orthonormalised one.
        takes_convolutions: False where its documentation says that it leaves them to another optimizer.
        ours: whether failures are ours.
        note: a remark under the table.
    """

    title: str
    package: str
    options: Mapping[str, Option]
    available: Callable[[], bool] = lambda: True
    order: Literal["before", "after"] = "before"
    momentum: float = 0.95
    nesterov: bool = True
    accuracy: float = 0.5
    sorts: Literal["itself", "you"] = "you"
    orthogonal: bool = True
    split_qkv: tuple[Build, int] | None = None
    transfer: str | None = None
    layerwise: bool = False
    takes_convolutions: bool = True
    ours: bool = False
    note: str = ""
    first: Option = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", next(iter(self.options.values())))

    @property
    def version(self) -> str:
        try:
            return installed_version(self.package).partition("+")[0]  # without +cpu
        except PackageNotFoundError:
            return "unknown"


class Together:
    """Several optimizers, each over some parameters, that step together."""

    def __init__(self, *optimizers: Any) -> None:
        self.optimizers = optimizers

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()


def by_shape(factor: Callable[[int, int], float]) -> Scale:
    """A scale that depends on (rows, columns) of a matrix alone; rows are its outputs."""
    return lambda parameter, polars: factor(*polars[0].shape)


plain = by_shape(lambda rows, columns: 1.0)
"""No scale: singular values of one."""

jordan = by_shape(lambda rows, columns: math.sqrt(max(1, rows / columns)))
"""Muon's own (K. Jordan et al., 2024)."""

moonlight = by_shape(lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)))
"""Update with the root mean square 0.2, as AdamW's (arXiv 2502.16982, section 2.2)."""

spectral = by_shape(lambda rows, columns: math.sqrt(rows / columns))
"""Spectral norm from root mean square to root mean square (arXiv 2502.07529)."""


def by_lars(trust_coefficient: float) -> Scale:
    """LARS's ratio, `trust_coefficient * ||p|| / ||o||`; the coefficient where either norm is zero."""

    def scale(parameter: Tensor, polars: Sequence[Tensor]) -> float:
        weights = parameter.double().norm().item()
        update = math.sqrt(sum(polar.square().sum().item() for polar in polars))
        return trust_coefficient * (weights / update if weights and update else 1)

    return scale


def hidden_matrices(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Weights for Muon and the others, as Muon's documentation asks of its users.

    Muon gets what has two dimensions or more, without embeddings and without the head.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    hidden, others = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        outside = id(parameter) in tables or name.startswith("head.")
        (others if outside or parameter.ndim < 2 else hidden).append(parameter)
    return hidden, others
