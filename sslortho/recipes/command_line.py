"""From a command line and YAML files to options; mistakes in one line."""

import argparse
import contextlib
import itertools
import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

import yaml
from jsonargparse import ArgumentParser, get_loader, set_loader

from sslortho.options import Options, nearest
from sslortho.recipes.configs import find_config
from sslortho.recipes.help import describe_type, format_help

Some = TypeVar("Some", bound=Options)


def _find_nearest(name: str, cls: type[Any]) -> str:
    methods = cls.methods_with(name) if hasattr(cls, "methods_with") else []
    if methods:
        return f" (it is an option of --method {', '.join(methods)})"
    return nearest(name, [f.name for f in fields(cls)])


def _explain_wrong_type(message: str, cls: type[Any]) -> str:
    """The parser's message on a value of a wrong type, in the words of `--help`; others unchanged."""
    found = re.fullmatch(r'Parser key "(\w+)": .*(?:Got|Given) value: (.*)', message)
    kinds = {f.name: f.type for f in fields(cls)}
    if not found or found[1] not in kinds:
        return message
    name, value = found.groups()
    wanted = describe_type(kinds[name])
    choices = re.findall(r"[^{},]+", wanted) if wanted.startswith("{") else []
    if choices:
        return f"{name}={value} is not one of {', '.join(choices)}{nearest(value, choices)}"
    words = {"INTEGER": "a whole number", "NUMBER": "a number", "TEXT": "text"}
    return f"{name}={value} must be {words.get(wanted, wanted.strip('[]').replace('|', ' or '))}"


class _Parser(ArgumentParser):
    """One line and exit code 2 for a mistake, with the nearest right name."""

    options_class: type[Any]
    debug = False

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: --([\w-]+)", message) or re.search(
            r"[Oo]ption '([\w-]+)' is not accepted", message
        )
        hint = _find_nearest(unknown[1], self.options_class) if unknown else ""
        plain = _explain_wrong_type(" ".join(message.split()), self.options_class)
        text = f"{plain}{hint}"
        if self.debug:
            raise ValueError(text) from ex
        print(f"{self.prog}: error: {text}", file=sys.stderr)
        sys.exit(2)


class PlainParser(argparse.ArgumentParser):
    """argparse's parser, with one line and exit code 2 for a mistake, as `parse_options` has it."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)


_load_plain_yaml = get_loader("yaml")


def _load_yaml(text: str) -> Any:
    """Load YAML; refuse mappings as values and options given twice, where the last would win in silence."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    top = yaml.compose(text, Loader=loader)
    pairs = top.value if isinstance(top, yaml.MappingNode) else []
    for key, value in pairs:
        if isinstance(value, yaml.MappingNode):  # an empty one would pass, even of an unknown name
            raise yaml.YAMLError(f"{key.value}: no option is a mapping; options stand side by side")
    keys = [key.value for key, _ in pairs]
    for i, key in enumerate(keys):
        if isinstance(key, str) and key in keys[:i]:
            raise yaml.YAMLError(f"{key} is given twice; leave one of them out")
    return _load_plain_yaml(text)


def _spell_out_switches(arguments: Sequence[str], cls: type[Any]) -> list[str]:
    """`--compile` to `--compile true`: a switch needs no value, but may have one."""
    switches = {f"--{f.name}" for f in fields(cls) if f.type in (bool, bool | None)}
    result: list[str] = []
    for i, argument in enumerate(arguments):
        result.append(argument)
        following = arguments[i + 1] if i + 1 < len(arguments) else "--"
        if argument in switches and following.startswith("--"):
            result.append("true")
    return result


def _asks_for_debug(arguments: Sequence[str]) -> bool:
    """Whether a command line, perhaps a wrong one, has `--debug`."""
    return "--debug" in arguments or "--debug=true" in arguments


def _check_values(values: dict[str, Any], cls: type[Any]) -> None:
    """Raise ValueError for values that the parser lets pass."""
    for field in fields(cls):
        value = values[field.name]
        if value is None and type(None) not in get_args(field.type):
            raise ValueError(f"{field.name}: null is no value for it; leave it out for its default")
        if isinstance(value, str) and "\0" in value:
            raise ValueError(f"{field.name}={value!r} must have no null character")


def _files_first(arguments: Sequence[str]) -> list[str]:
    """Move `--config FILE` to the front, so that flags override files wherever they stand."""
    rest = list(arguments)
    files: list[str] = []
    for i in reversed(range(len(rest))):
        if rest[i] == "--config" or rest[i].startswith("--config="):
            count = 2 if rest[i] == "--config" else 1
            files[:0] = rest[i : i + count]
            del rest[i : i + count]
    return files + rest


def _find_configs(arguments: Sequence[str]) -> list[str]:
    """The same with names of configurations replaced by their files."""
    result: list[str] = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if result and result[-1] == "--config":
            result.append(find_config(argument))
        elif flag == "--config" and equals:
            result.append(f"{flag}={find_config(value)}")
        else:
            result.append(argument)
    return result


def _read_option(file: str, name: str) -> Any:
    """Value of an option in a YAML file, or in YAML itself.

    None if it is absent or malformed; the parser reports it.
    """
    with contextlib.suppress(Exception):
        text = file if "{" in file else Path(file).expanduser().read_text()
        return yaml.safe_load(text).get(name)
    return None


def _read_ahead(arguments: Sequence[str], name: str) -> str | None:
    """Value of an option before all are parsed; None if it is not given, or not text."""
    found = None
    for argument, following in itertools.pairwise([*arguments, ""]):
        flag, equals, value = argument.partition("=")
        value = value if equals else following
        given = _read_option(value, name) if flag == "--config" else value
        if flag in ("--config", f"--{name}") and isinstance(given, str):
            found = given
    return found


def _create_parser(program: str, cls: type[Any], debug: bool) -> _Parser:
    set_loader("yaml", _load_yaml, exceptions=(yaml.YAMLError,))
    parser = _Parser(prog=program, allow_abbrev=False, add_help=False)
    parser.debug, parser.options_class = debug, cls
    return parser


def _choose_class(cls: type[Any], arguments: Sequence[str]) -> type[Any]:
    """The class with the options of the method that is given, where methods have their own."""
    for_method = getattr(cls, "for_method", None)
    return for_method(_read_ahead(arguments, "method")) if for_method else cls


def _read_options(parser: _Parser, arguments: Sequence[str]) -> Any:
    """Options of the parser's class; configurations stand first and are files."""
    cls = parser.options_class
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(cls)
    values = parser.parse_args(_spell_out_switches(arguments, cls)).as_dict()
    values.pop("config")
    _check_values(values, cls)
    return cls(**values)


def parse_options(
    cls: type[Some], arguments: Sequence[str] | None = None, program: str | None = None
) -> Some:
    """Options from a command line: `--config FILE.yaml`, and flags that override it.

    Prints the help, or a mistake in one line, and exits (codes 0 and 2). An unknown key, on the command
    line or in a file, is a mistake; the nearest right one is named. A class with `for_method` has the
    options of the method that is given.

    Args:
        cls: options class.
        arguments: without the program's name. Default: those of this process.
        program: name for the help and for messages. Default: that of this process.
    """
    given = _files_first(sys.argv[1:] if arguments is None else arguments)
    program = program or Path(sys.argv[0]).name
    parser = _create_parser(program, cls, _asks_for_debug(given))
    try:
        given = _find_configs(given)
        parser.options_class = _choose_class(cls, given)
        if {"--help", "-h"} & set(given):
            print(format_help(parser.options_class, program), end="")
            sys.exit(0)
        return _read_options(parser, given)
    except Exception as error:  # YAML's own kinds, a RecursionError, an AttributeError of its tags
        if parser.debug:
            raise
        parser.error(str(error))


def _to_text(value: Any) -> str:
    """A value as a command line has it: numbers, lists and null as in JSON."""
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    return json.dumps(value, default=lambda scalar: scalar.item())  # of NumPy and torch


def to_arguments(values: Mapping[str, Any]) -> list[str]:
    """Options as a command line has them: {"lr": 0.1} to ["--lr", "0.1"].

    Raises ValueError for a value that is neither number, text, path nor None, nor a list of those.
    """
    for name, value in values.items():
        try:
            _to_text(value)
        except (TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{name}={value!r} must be a number, text, a path, None, or a list of those"
            ) from error
    pairs = [(f"--{name}", _to_text(value)) for name, value in values.items()]
    return [
        word
        for flag, text in pairs
        for word in ([f"{flag}={text}"] if text.startswith("-") else [flag, text])
    ]


def create_options(cls: type[Some], values: Mapping[str, Any]) -> Some:
    """Options from Python values, which are checked as those of a command line are.

    Args:
        cls: options class; one with `for_method` has the options of the method that is given.
        values: options by name; the others have their defaults. Paths may be Path objects.

    Raises ValueError for an unknown name (the nearest right one is named), a value of another type, and
    whatever the class does not accept.
    """
    try:
        arguments = to_arguments(values)
        chosen = _choose_class(cls, arguments)
        names = {field.name for field in fields(chosen)}
        for name in values:
            if name not in names:
                raise ValueError(f"{name!r} is not an option{_find_nearest(name, chosen)}")
        return _read_options(_create_parser(cls.command, chosen, debug=True), arguments)
    except ValueError:
        raise
    except Exception as error:  # as in `parse_options`
        raise ValueError(" ".join(str(error).split())) from error


@contextlib.contextmanager
def user_errors(debug: bool, program: str | None = None) -> Iterator[None]:
    """End the process on an error inside that is the user's: one line and exit code 2.

    ValueError and OSError are the user's; Ctrl-C has exit code 130. With `debug` all are raised.
    """
    program = program or Path(sys.argv[0]).name
    try:
        yield
    except KeyboardInterrupt:
        if debug:
            raise
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more would only disturb the leaving
        print(f"{program}: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except (ValueError, OSError) as error:
        if debug:
            raise
        message = " ".join(str(error).split())  # other libraries' have many lines
        print(f"{program}: error: {message}", file=sys.stderr)
        sys.exit(2)
