"""How a command line and a YAML file become a configuration."""

import contextlib
import difflib
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from jsonargparse import ArgumentParser, set_parsing_settings

Config = TypeVar("Config")


def _nearest(name: str, config: type[Any]) -> str:
    names = [f.name for f in fields(config)]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


class _Parser(ArgumentParser):
    """One line and exit code 2 for a mistake, with the nearest right name."""

    config_class: type[Any]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: --([\w-]+)", message) or re.search(
            r"[Oo]ption '([\w-]+)' is not accepted", message
        )
        hint = _nearest(unknown[1], self.config_class) if unknown else ""
        print(f"{self.prog}: error: {' '.join(message.split())}{hint}", file=sys.stderr)
        sys.exit(2)


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


def parse_config(config: type[Config], arguments: Sequence[str] | None = None) -> Config:
    """A configuration from a command line: `--config FILE.yaml`, and flags that override it.

    An unknown key, on the command line or in a file, is an error that names the nearest right one.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = _Parser(description=config.__doc__, allow_abbrev=False)
    parser.config_class = config
    parser.add_argument("--config", action="config", help="YAML file with any of the options")
    parser.add_class_arguments(config)
    given = sys.argv[1:] if arguments is None else arguments
    try:
        values = parser.parse_args(_spell_out_switches(given, config)).as_dict()
        values.pop("config")
        return config(**values)
    except ValueError as error:
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
        print(f"{Path(sys.argv[0]).name}: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except (ValueError, OSError) as error:
        if debug:
            raise
        message = " ".join(str(error).split())  # other libraries' have many lines
        print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
        sys.exit(2)
