"""Projectors that a user hands over: any module from features to (batch, width)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sslortho.models.own_networks import copy_module, describe_output, trial_mode

ProjectorSource = nn.Module | Callable[[int], nn.Module]
"""A projector that a user hands over, or a function from the number of features to one."""


def create_projector(source: ProjectorSource, dim: int) -> nn.Module:
    """A projector for features (batch, dim): a copy of the module, or what the function makes.

    Raises ValueError if it does not map (batch, dim) to (batch, width).
    """
    projector = (
        copy_module(source, "projector")
        if isinstance(source, nn.Module)
        else _make_projector(source, dim)
    )
    if not isinstance(projector, nn.Module):
        raise ValueError(
            f"projector={source!r} gives {describe_output(projector)} for {dim} features; a function must "
            "give a torch.nn.Module"
        )
    projector_width(projector, dim)
    return projector


def _make_projector(source: Callable[[int], nn.Module], dim: int) -> nn.Module:
    try:
        return source(dim)
    except Exception as error:  # a user's function may raise anything
        words = " ".join(str(error).split())
        raise ValueError(
            f"projector={getattr(source, '__name__', source)}: called with the number of features, {dim}, it "
            f"raises {type(error).__name__} ({words}); give a function of that one argument, such as "
            "lambda dim: nn.Linear(dim, 128)"
        ) from error


def projector_width(projector: nn.Module, dim: int) -> int:
    """Width of a projector's output for features (batch, dim).

    Raises ValueError if it does not take them, or its output is not (batch, width).
    """
    kind = type(projector).__name__
    try:
        with trial_mode(projector):
            output = projector(torch.zeros(2, dim))
    except Exception as error:  # a user's module may raise anything
        words = " ".join(str(error).split())
        raise ValueError(
            f"projector={kind} does not take features (2, {dim}) ({type(error).__name__}: {words}); give a "
            f"function of the number of features, such as lambda dim: nn.Linear(dim, 128)"
        ) from error
    if not (isinstance(output, Tensor) and output.ndim == 2 and len(output) == 2):
        raise ValueError(
            f"projector={kind} gives {describe_output(output)} for features (2, {dim}); (2, width) is needed"
        )
    return output.shape[1]
