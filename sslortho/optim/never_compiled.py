"""Marks for `torch.compile` that do not import the compiler, as those of `torch.compiler` do.

Importing the compiler takes more than a second. Everyone who imports an optimizer would wait for it, and
most of them never compile.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch.optim import Optimizer

Taken = ParamSpec("Taken")
Given = TypeVar("Given")


def never_compiled(function: Callable[Taken, Given]) -> Callable[Taken, Given]:
    """The function, which a compiled caller calls as it is, with all that it calls.

    It is `torch.compiler.disable`, once somebody else has imported the compiler; nothing can be compiled
    before.
    """
    # torch's own, for its optimizers: it marks at the first call, and a caller that is being compiled may
    # make that
    disabled = torch._disable_dynamo(function)  # pyright: ignore[reportPrivateImportUsage]

    @functools.wraps(function)
    def call(*args: Taken.args, **kwargs: Taken.kwargs) -> Given:
        chosen = disabled if "torch._dynamo" in sys.modules else function
        return chosen(*args, **kwargs)

    return call


def constant_when_compiled(function: Callable[Taken, Given]) -> Callable[Taken, Given]:
    """The function, marked so that a compiled caller takes its result as a constant, and does not trace it.

    The mark is the one of `torch.compiler.assume_constant_result`.
    """
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


class PlainOptimizer(Optimizer):
    """`torch.optim.Optimizer`, some of whose methods import the compiler at their first call; these do not."""

    add_param_group = never_compiled(inspect.unwrap(Optimizer.add_param_group))
    zero_grad = never_compiled(inspect.unwrap(Optimizer.zero_grad))
    state_dict = never_compiled(inspect.unwrap(Optimizer.state_dict))
    load_state_dict = never_compiled(inspect.unwrap(Optimizer.load_state_dict))
    register_load_state_dict_pre_hook = never_compiled(
        inspect.unwrap(Optimizer.register_load_state_dict_pre_hook)
    )
    register_load_state_dict_post_hook = never_compiled(
        inspect.unwrap(Optimizer.register_load_state_dict_post_hook)
    )
