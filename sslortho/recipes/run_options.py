"""Options of the commands that write a run folder, by the command's name. Imports no torch."""

import functools
from typing import Any

from sslortho.methods.options import METHOD_OPTIONS
from sslortho.options import facts
from sslortho.recipes.knn_eval.options import KnnEvalOptions
from sslortho.recipes.linear_eval.options import LinearEvalOptions
from sslortho.recipes.options import RunOptions
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.supervised.options import SupervisedOptions

RUN_OPTIONS: dict[str, type[RunOptions]] = {
    "pretrain": PretrainOptions,
    "supervised": SupervisedOptions,
    "linear_eval": LinearEvalOptions,
    "knn_eval": KnnEvalOptions,
}
"""Command to its options; those of pretrain lack the options of a method."""


def create_options(command: str, **values: Any) -> RunOptions:
    """Options of a command from some of them. Raises TypeError and ValueError as its class does."""
    cls = RUN_OPTIONS[command]
    return cls.of(**values) if issubclass(cls, PretrainOptions) else cls(**values)


@functools.cache
def ignored_options() -> frozenset[str]:
    """Options that do not affect the result of any command: they only say where and how it ran."""
    classes = [*RUN_OPTIONS.values(), *map(PretrainOptions.for_method, METHOD_OPTIONS)]
    found = [(name, fact) for cls in classes for name, fact in facts(cls).items()]
    affecting = {name for name, fact in found if fact.affects_result}
    return frozenset(name for name, _ in found) - affecting


@functools.cache
def loss_options() -> frozenset[str]:
    """Options that losses depend on by their definition: those of the methods, and of cross-entropy.

    Contrastive losses grow with the batch, that of Barlow Twins with the width of the projector.
    """
    own = {name for cls in METHOD_OPTIONS.values() for name in facts(cls)}
    return frozenset({*own, "batch_size", "label_smoothing", "projector"})
