"""Marks for `torch.compile` that do not import the compiler, as those of `torch.compiler` do.

It takes more than a second, for everyone who imports an optimizer, and most never compile.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

Taken = ParamSpec("Taken")
Given = TypeVar("Given")


def never_compiled(function: Callable[Taken, Given]) -> Callable[Taken, Given]:
    """The function, which a compiled caller calls as it is, with all that it calls.

    It is `torch.compiler.disable`, from the first call after somebody else has imported the compiler;
    nothing can be compiled before.
    """
    disabled: list[Any] = []

    @functools.wraps(function)
    def call(*args: Taken.args, **kwargs: Taken.kwargs) -> Given:
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        if not disabled:
            disabled.append(torch.compiler.disable(function))
        return disabled[0](*args, **kwargs)

    return call


def constant_when_compiled(function: Callable[Taken, Given]) -> Callable[Taken, Given]:
    """The function, marked so that a compiled caller takes its result as a constant, and does not trace it.

    The mark is the one of `torch.compiler.assume_constant_result`.
    """
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function
