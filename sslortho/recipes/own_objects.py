"""Python callers' own networks, projectors, methods and views: told apart from names, and checked."""

import os
from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from typing import Any

from torch import nn

from sslortho.augment.own_views import read_own_view
from sslortho.augment.views import ViewSpec
from sslortho.methods import Method
from sslortho.options import GIVEN, Options
from sslortho.recipes.given import NOTHING, Given
from sslortho.recipes.options import RunOptions
from sslortho.recipes.pretrain.options import PretrainOptions


def take_objects(values: Mapping[str, Any], given: Given = NOTHING) -> tuple[dict[str, Any], Given]:
    """Options whose objects are replaced by GIVEN, and the objects beside those of `given`.

    Raises ValueError for an object that cannot stand there.
    """
    values = dict(values)
    for name, check in CHECKS.items():
        if name in values and not isinstance(values[name], str | None):
            given = replace(given, **{name: check(name, values[name])})
            values[name] = GIVEN
    source = values.get("backbone_from")
    if isinstance(source, nn.Module):
        given = replace(given, backbone=source)
        values["backbone_from"] = GIVEN
    elif source is not None:
        check_place("backbone_from", source)
    if given.views is not None and values.get("crop_size") is None:
        values["crop_size"] = given.views[0].crop_size
    return values, given


def check_place(name: str, value: Any) -> None:
    """Raise ValueError for what cannot be the path of a backbone, such as the result of a run."""
    if not isinstance(value, str | os.PathLike):
        raise ValueError(
            f"{name}, a {type(value).__name__}, must be a run folder or a file of weights; a finished run "
            "has them in run.folder, and its network is run.backbone"
        )


def options_class(cls: type[RunOptions], given: Given) -> type[RunOptions]:
    """The options class of a command, with the options of a method that is handed over.

    Raises ValueError for views that are handed over to a command that takes names alone.
    """
    if given.views is not None and not issubclass(cls, PretrainOptions):
        raise ValueError(
            f"views: {cls.command} takes the name of a view, not views of one's own, which are for pretrain; "
            "leave it out for its own"
        )
    if given.method is None or not issubclass(cls, PretrainOptions):
        return cls
    return cls.for_own_method(given.method.Options)


def _check_network(name: str, value: Any) -> Any:
    if isinstance(value, nn.Module):
        return value
    if isinstance(value, type) and issubclass(value, nn.Module):
        raise ValueError(f"model={value.__name__} is a class; give an instance: {value.__name__}()")
    raise ValueError(f"model={value!r} must be a name or a torch.nn.Module from images to features")


def _check_projector(name: str, value: Any) -> Any:
    if isinstance(value, nn.Module) or callable(value):
        return value
    raise ValueError(
        f"{name}={value!r} must be widths such as '512-512', a torch.nn.Module, or a function from the "
        "number of features to one"
    )


def _check_method(name: str, value: Any) -> type[Method]:
    if not (isinstance(value, type) and issubclass(value, Method)):
        raise ValueError(
            f"{name}={value!r} must be a name or a subclass (no instance) of sslortho.methods.Method"
        )
    options = value.Options
    plain = isinstance(options, type) and issubclass(options, Options)
    if not plain or (options is not Options and not is_dataclass(options)):
        raise ValueError(
            f"{name}={value.__name__}: its Options must be a dataclass(frozen=True, kw_only=True) that "
            "derives from sslortho.options.Options"
        )
    return value


def _say_twice(value: Any) -> str:
    one = callable(value) or isinstance(value, ViewSpec)
    return "; for two views of one kind give it twice, in a list" if one else ""


def _check_views(name: str, value: Any) -> tuple[Any, ...]:
    views = tuple(value) if isinstance(value, tuple | list) else ()
    specs = sum(isinstance(view, ViewSpec) for view in views)
    functions = sum(callable(view) for view in views)
    if not views or len(views) not in (specs, functions):
        raise ValueError(
            f"{name}={' '.join(repr(value).split())} must be a name, or a list of views: all ViewSpec, or "
            f"all callables from a PIL image to a tensor (3, size, size){_say_twice(value)}"
        )
    return tuple(v if isinstance(v, ViewSpec) else read_own_view(v) for v in views)


CHECKS = {
    "backbone": _check_network,
    "projector": _check_projector,
    "method": _check_method,
    "views": _check_views,
}
"""Option to the check of an object in its place."""
