"""Options of commands: frozen dataclasses whose fields know everything about themselves.

Help stands as a docstring below the field, everything else in `option(...)`. A subclass that only gives
a field another default inherits both.
"""

import ast
import difflib
import functools
import inspect
import itertools
import json
import math
import os
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal

Group = Literal["data", "model and method", "optimisation", "hardware", "output"]

GROUPS: tuple[Group, ...] = ("data", "model and method", "optimisation", "hardware", "output")
"""Groups of `--help`, in their order."""


GIVEN = "given"
"""Value of an option in place of an object that a Python caller has handed over."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything that is known about an option beside its type, default and help."""

    group: Group = "model and method"
    """Group of `--help`."""
    unit: str | None = None
    """Unit of the value, such as "pixels"."""
    rare: bool = False
    """Seldom needed: at the end of its group."""
    may_change: bool = False
    """A run that resumes may be given another value: the weights do not depend on it."""
    affects_result: bool = True
    """The figures of a run may depend on it; False for where and how it ran."""
    path: bool = False
    """A file or folder; a leading ~ is expanded when the option is read."""
    by_content: bool = False
    """A file or folder that a run reads. When it resumes, what it holds is compared and not its name."""
    fitted: bool = False
    """Left out (None), it is fitted to the data when a run begins. A run that resumes keeps what was chosen."""
    once: bool = False
    """A decision of whoever starts the command: config.yaml has the default, so that a start from it asks
    again."""


def option(default: Any = None, *, required: bool = False, **facts: Any) -> Any:
    """A dataclass field with `Facts`; to be written as the default of an annotated field.

    Args:
        default: value of the field where it is not given.
        required: the field has no default.
        facts: fields of `Facts`. None at all: those of the same field of a base class.
    """
    metadata = {"facts": Facts(**facts)} if facts else {}
    return field(metadata=metadata) if required else field(default=default, metadata=metadata)


def facts(cls: type[Any]) -> dict[str, Facts]:
    """Facts of every field of an options class, by name, from the class that states them."""
    return {f.name: _find_facts(cls, f.name) for f in fields(cls)}


@functools.cache
def _find_facts(cls: type[Any], name: str) -> Facts:
    for base in cls.__mro__:
        declared = getattr(base, "__dataclass_fields__", {}).get(name)
        if declared is not None and "facts" in declared.metadata:
            return declared.metadata["facts"]
    return Facts()


def help_texts(cls: type[Any]) -> dict[str, str]:
    """Docstring of every field of an options class, by name, from the nearest class that has one."""
    found: dict[str, str] = {}
    for base in cls.__mro__:
        for name, text in _attribute_docstrings(base).items():
            found.setdefault(name, text)
    return {f.name: found.get(f.name, "") for f in fields(cls)}


@functools.cache
def _attribute_docstrings(cls: type[Any]) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):  # made by make_dataclass, or built in
        return {}
    found: dict[str, str] = {}
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    for statement, following in itertools.pairwise(body):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        value = following.value if isinstance(following, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            found[statement.target.id] = " ".join(value.value.split())
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the name that was meant, to stand behind a message: " (did you mean x?)", or ""."""
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def _brief(value: Any) -> str:
    """A value for a message; of an object with a long description its type alone."""
    shown = repr(value)
    return shown if len(shown) <= 80 else f"<{type(value).__name__}>"


def to_text(name: str, value: Any) -> str:
    """A value as a command line has it: text and paths as they are, others as JSON.

    Args:
        name: of the option, for the message.
        value: number, text, path or None, of Python, NumPy or torch, or a list of those.

    Raises ValueError for anything else.
    """
    if isinstance(value, str | os.PathLike):
        return str(os.fspath(value))
    try:
        return json.dumps(value, default=lambda scalar: scalar.item())  # of NumPy and torch
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{name}={_brief(value)} must be a number, text, a path, None, or a list of those"
        ) from error


def to_arguments(values: Mapping[str, Any], cls: type[Any] | None = None) -> list[str]:
    """Options as a command line has them: {"lr": 0.1} to ["--lr", "0.1"].

    Args:
        values: options by name.
        cls: options class. Its text options that are None are left out: any text behind their flag would
            be taken as it is, and None is their default.

    Raises ValueError as `to_text`.
    """
    texts = {f.name for f in fields(cls) if f.type in (str, str | None)} if cls else set[str]()
    words: list[str] = []
    for name, value in values.items():
        if value is None and name in texts:
            continue
        text = to_text(name, value)
        words += [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]
    return words


class Options:
    """Base of all options: expands paths, checks its own fields, those of its bases in turn.

    Raises ValueError, naming the field as given, its value and what it must be.
    """

    command: ClassVar[str] = ""
    """Name of the command that these are the options of."""

    def __post_init__(self) -> None:
        for name, fact in facts(type(self)).items():
            value = getattr(self, name)
            if fact.path and isinstance(value, str | os.PathLike):
                value = self._expand(name, str(os.fspath(value)))
                object.__setattr__(self, name, value)
            several = isinstance(value, tuple | list)
            numbers = [v for v in (value if several else [value]) if isinstance(v, float)]
            wanted = "finite numbers" if several else "a finite number"
            self._check(name, all(map(math.isfinite, numbers)), wanted)

    def _expand(self, name: str, value: str) -> str:
        self._check(name, value != "", "a path; leave it out for its default")
        if not value.startswith("~"):
            return value
        expanded = os.path.expanduser(value)  # noqa: PTH111 - Path raises where there is no such user
        if expanded == value:
            raise ValueError(
                f"{name}={value!r}: there is no such user; for a file of that name give ./{value}"
            )
        return expanded

    def _check(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ValueError(f"{name}={getattr(self, name)!r} must be {wanted}")

    def _check_least(self, least: int, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            self._check(name, value is None or value >= least, f"{least} or more")

    def _check_effect(self, on: str, **has_none: bool) -> None:
        """Raise ValueError for a field that has no effect, given the value of the field `on`."""
        for name, holds in has_none.items():
            if holds:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} has no effect on {on}={getattr(self, on)!r}"
                )

    def fixed(self) -> dict[str, Any]:
        """Options that a run must keep to resume: the weights depend on them.

        Not those whose content is compared: see `runs.inputs`.
        """
        known = facts(type(self))
        return {
            name: value
            for name, value in self.values().items()
            if not (known[name].may_change or known[name].by_content)
        }

    def values(self) -> dict[str, Any]:
        """All options by name, as plain values."""
        return asdict(self)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, kw_only=True)
class RandomOptions(Options):
    """Seed of everything random."""

    seed: int = option(0, group="optimisation", rare=True)
    """Seed of initial weights, order and augmentation; 0 to 2**32 - 1."""

    def __post_init__(self) -> None:
        self._check("seed", 0 <= self.seed < 2**32, "from 0 to 2**32 - 1")
        super().__post_init__()
