"""How a command line and a YAML file become a configuration."""

import argparse
import contextlib
import difflib
import itertools
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

import yaml
from jsonargparse import ArgumentParser, get_loader, set_loader, set_parsing_settings

Config = TypeVar("Config")


def _nearest(name: str, config: type[Any]) -> str:
    methods = config.methods_with(name) if hasattr(config, "methods_with") else []
    if methods:
        return f" (it is an option of --method {', '.join(methods)})"
    names = [f.name for f in fields(config)]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


class _Parser(ArgumentParser):
    """One line and exit code 2 for a mistake, with the nearest right name."""

    config_class: type[Any]
    debug = False

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if self.debug:
            raise ValueError(message) from ex
        unknown = re.search(r"unrecognized arguments: --([\w-]+)", message) or re.search(
            r"[Oo]ption '([\w-]+)' is not accepted", message
        )
        hint = _nearest(unknown[1], self.config_class) if unknown else ""
        print(f"{self.prog}: error: {' '.join(message.split())}{hint}", file=sys.stderr)
        sys.exit(2)


class PlainParser(argparse.ArgumentParser):
    """argparse's, with one line and exit code 2 for a mistake, as `parse_config` has it."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)


_load_plain_yaml = get_loader("yaml")


def _load_yaml(text: str) -> Any:
    """As before, but for mappings and for options that are given twice: the last would win in silence."""
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


def _spell_out_switches(arguments: Sequence[str], config: type[Any]) -> list[str]:
    """`--compile` to `--compile true`: a switch needs no value, but may have one."""
    switches = {f"--{f.name}" for f in fields(config) if f.type in (bool, bool | None)}
    result: list[str] = []
    for i, argument in enumerate(arguments):
        result.append(argument)
        following = arguments[i + 1] if i + 1 < len(arguments) else "--"
        if argument in switches and following.startswith("--"):
            result.append("true")
    return result


def _asks_for_debug(arguments: Sequence[str]) -> bool:
    """Whether a command line that may be wrong has `--debug`."""
    return "--debug" in arguments or "--debug=true" in arguments


def _check_values(values: dict[str, Any], config: type[Any]) -> None:
    """Raise ValueError for what passes the parser and is no value."""
    for field in fields(config):
        value = values[field.name]
        if value is None and type(None) not in get_args(field.type):
            raise ValueError(f"{field.name}: null is no value for it; leave it out for its default")
        if isinstance(value, str) and "\0" in value:
            raise ValueError(f"{field.name}={value!r} must have no null character")
        if isinstance(value, str) and value.startswith("~") and os.path.expanduser(value) == value:  # noqa: PTH111 - Path raises
            raise ValueError(
                f"{field.name}={value!r}: there is no such user; for a file of that name give ./{value}"
            )


def _files_first(arguments: Sequence[str]) -> list[str]:
    """The same with `--config FILE` at the front, so that flags override files wherever they stand."""
    rest = list(arguments)
    files: list[str] = []
    for i in reversed(range(len(rest))):
        if rest[i] == "--config" or rest[i].startswith("--config="):
            count = 2 if rest[i] == "--config" else 1
            files[:0] = rest[i : i + count]
            del rest[i : i + count]
    return files + rest


def _read_option(file: str, name: str) -> Any:
    """An option in a YAML file, or in YAML itself; None if it has none, or is none, as the parser will say."""
    with contextlib.suppress(Exception):
        text = file if "{" in file else Path(file).expanduser().read_text()
        return yaml.safe_load(text).get(name)
    return None


def _read_ahead(arguments: Sequence[str], name: str) -> str | None:
    """An option's value before all are parsed; None if it is not given, or is no text."""
    found = None
    for argument, following in itertools.pairwise([*arguments, ""]):
        flag, equals, value = argument.partition("=")
        value = value if equals else following
        given = _read_option(value, name) if flag == "--config" else value
        if flag in ("--config", f"--{name}") and isinstance(given, str):
            found = given
    return found


def parse_config(config: type[Config], arguments: Sequence[str] | None = None) -> Config:
    """A configuration from a command line: `--config FILE.yaml`, and flags that override it.

    An unknown key, on the command line or in a file, is an error that names the nearest right one.
    Which keys there are may depend on the option `method`: of a class with `for_method`.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    set_loader("yaml", _load_yaml, exceptions=(yaml.YAMLError,))
    given = _files_first(sys.argv[1:] if arguments is None else arguments)
    parser = _Parser(description=config.__doc__, allow_abbrev=False)
    parser.debug = _asks_for_debug(given)
    parser.config_class = config
    try:
        if for_method := getattr(config, "for_method", None):
            parser.config_class = for_method(_read_ahead(given, "method"))
        parser.add_argument("--config", action="config", help="YAML file with any of the options")
        parser.add_class_arguments(parser.config_class)
        values = parser.parse_args(_spell_out_switches(given, parser.config_class)).as_dict()
        values.pop("config")
        _check_values(values, parser.config_class)
        return parser.config_class(**values)
    except Exception as error:  # YAML's own kinds, a RecursionError, an AttributeError of its tags
        if parser.debug:
            raise
        parser.error(str(error))


@contextlib.contextmanager
def user_errors(debug: bool) -> Iterator[None]:
    """A ValueError or OSError inside ends the script with one line and exit code 2, Ctrl-C with 130; a
    traceback with `debug`."""
    try:
        yield
    except KeyboardInterrupt:
        if debug:
            raise
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more would only disturb the leaving
        print(f"{Path(sys.argv[0]).name}: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except (ValueError, OSError) as error:
        if debug:
            raise
        message = " ".join(str(error).split())  # other libraries' have many lines
        print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
        sys.exit(2)
