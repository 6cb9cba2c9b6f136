"""Explain parameter groups: a table of every parameter, what it gets, and why."""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from sslortho.optim.components import matrix_shape
from sslortho.optim.grouping import (
    Attention,
    Decision,
    GroupKey,
    OrthChoice,
    decide_all,
    group_name,
    group_order,
)
from sslortho.optim.uses import NamedUse, list_uses

COLUMNS = ("parameter", "shape", "module", "matrices", "decay, LARS", "why")


class _Line(NamedTuple):
    """One line of the table: a name of a parameter; the decision is None for one that is left out."""

    named: NamedUse
    decision: Decision | None
    why: str


def _lines(model: nn.Module, decided: dict[str, tuple[Tensor, Decision]]) -> Iterator[_Line]:
    """Yield a line for every name of every parameter, in the model's order."""
    first_name: dict[int, str] = {}
    for named in list_uses(model):
        first = first_name.setdefault(id(named.parameter), named.name)
        decision = decided[named.name][1] if named.name in decided else None
        if first != named.name:
            why = f"the same as {first}"
        else:
            why = decision.reason if decision else "left out: frozen"
        yield _Line(named, decision, why)


def _times(*sizes: int) -> str:
    """Sizes as "2 x 3"."""
    return " x ".join(map(str, sizes))


def _cells(line: _Line) -> tuple[str, ...]:
    """The cells of a line, in the order of COLUMNS."""
    matrices = decay = "-"
    if line.decision is not None:
        kind, components, view = line.decision.key
        decay = "no" if kind == "biases and norms" else "yes"
        if kind == "orthonormalised weights":
            matrices = _times(*matrix_shape(line.named.parameter.shape, components, view))
    shape = _times(*line.named.parameter.shape) or "scalar"
    layer = type_before_parametrizations(line.named.uses[0].layer).__name__
    return line.named.name, shape, layer, matrices, decay, line.why


def _aligned(rows: list[tuple[str, ...]], right: tuple[int, ...] = ()) -> list[str]:
    """Align cells in columns, two spaces apart; the columns numbered in `right` to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _totals(lines: list[_Line]) -> list[tuple[str, ...]]:
    """Rows of the second table: each group's tensors, parameters, and share of the whole model."""
    sizes: dict[GroupKey | None, list[int]] = {}
    for line in lines:
        if not line.why.startswith("the same as"):
            key = line.decision.key if line.decision else None
            sizes.setdefault(key, []).append(line.named.parameter.numel())
    total = max(sum(map(sum, sizes.values())), 1)
    keys = sorted((key for key in sizes if key is not None), key=group_order)
    rows = [("group", "tensors", "parameters", "share")]
    for key in [*keys, *([None] if None in sizes else [])]:
        name = "left out: frozen" if key is None else group_name(key)
        number = sum(sizes[key])
        rows.append((name, f"{len(sizes[key])}", f"{number:,}", f"{100 * number / total:.1f} %"))
    return rows


def describe_param_groups(
    model: nn.Module,
    orth: OrthChoice = "all",
    *,
    attention: Attention = "whole",
    no_decay: Collection[str] = (),
) -> str:
    """Explain what `param_groups` with these arguments gives each parameter, and why.

    Args:
        model: as for `param_groups`. Values are not read: a model on the meta device will do.
        orth: "conv", "all", "none", or a function of (layer, full name, parameter).
        attention: "whole", "qkv" or "heads".
        no_decay: names of parameters to count among biases and norms.

    Returns:
        Two tables to print. First one line for each name of a parameter, frozen and shared ones too: its
        shape, the type of the layer that uses it, its matrices (number x rows x columns) where its
        gradient is orthonormalised, whether it takes weight decay and LARS's ratio, and the reason. The reason
        names the parametrisation of a parametrised weight, and the layer that decides over a shared one.
        Then the totals of each group, and their share of all the model's parameters. Muon steps those without
        matrices by AdamW.

    Raises:
        ValueError: as `param_groups` does.
    """
    lines = list(_lines(model, decide_all(model, orth, attention, no_decay)))
    table = _aligned([COLUMNS, *map(_cells, lines)])
    return "\n".join([*table, "", *_aligned(_totals(lines), right=(1, 2, 3))])
