"""`--help` of a command, from its options alone."""

import shutil
import textwrap
import types
from dataclasses import MISSING, fields
from typing import Any, Literal, Union, get_args, get_origin

from sslortho.options import GROUPS, Options, facts, help_texts

INDENT = 26
"""Column where help texts begin."""

WIDEST = 110
"""Columns of the widest help: longer lines read badly."""

_PLAIN = {int: "INTEGER", float: "NUMBER", str: "TEXT"}


def describe_type(kind: Any, path: bool = False) -> str:
    """Values that an option takes, as a command line has them: INTEGER, {a,b}, [NUMBER,NUMBER], ..."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        kinds = [part for part in get_args(kind) if part is not type(None)]
        return "|".join(describe_type(part, path) for part in kinds)
    if origin is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    if origin in (tuple, list):
        inner = ",".join(describe_type(part) for part in get_args(kind))
        return f"[{inner},...]" if origin is list else f"[{inner}]"
    if kind is bool:
        return "[true|false]"
    return "PATH" if path and kind is str else _PLAIN.get(kind, "TEXT")


def _default_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ",".join(map(_default_text, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _remark(default: Any, unit: str | None) -> str:
    """ "(pixels; default 32)", or less where there is less to say."""
    parts = [unit] if unit else []
    if default is MISSING:
        parts.append("required")
    elif default is not None:  # else the help says what happens
        parts.append(f"default {_default_text(default)}")
    return f" ({'; '.join(parts)})" if parts else ""


def _entry(flag: str, text: str, width: int) -> list[str]:
    wrapped = textwrap.wrap(text, width - INDENT) or [""]
    head = f"  {flag}"
    if len(head) < INDENT - 1:
        first, *rest = wrapped
        return [f"{head:{INDENT}}{first}", *(" " * INDENT + line for line in rest)]
    return [head, *(" " * INDENT + line for line in wrapped)]


def format_help(cls: type[Options], program: str) -> str:
    """Text of `--help`: groups in their order, in each the options most used first.

    Args:
        cls: options class.
        program: as it was called, such as "sslortho pretrain".
    """
    width = min(WIDEST, shutil.get_terminal_size((100, 24)).columns)
    known, texts = facts(cls), help_texts(cls)
    lines = [f"usage: {program} [--config FILE] [--OPTION VALUE ...]", ""]
    lines += textwrap.wrap(" ".join((cls.__doc__ or "").split()), width)
    config = "YAML file with any of the options, or the name of one in configs/. Flags override it."
    lines += ["", *_entry("--config FILE", config, width), *_entry("--help", "This text.", width)]
    for group in GROUPS:
        members = [f for f in fields(cls) if known[f.name].group == group]  # pyright: ignore[reportArgumentType]
        if members:
            lines += ["", f"{group}:"]
        for field in sorted(members, key=lambda f: known[f.name].rare):
            fact = known[field.name]
            flag = f"--{field.name} {describe_type(field.type, fact.path)}"
            text = texts[field.name] + _remark(field.default, fact.unit)
            lines += _entry(flag, text, width)
    return "\n".join(lines) + "\n"
