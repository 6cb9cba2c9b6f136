"""From a command line and YAML files to options; mistakes in one line."""

import argparse
import contextlib
import itertools
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

from sslortho.options import Options, nearest, to_text
from sslortho.recipes.configs import find_config
from sslortho.recipes.help import format_help
from sslortho.recipes.option_values import is_text, read_file, read_given, read_text

Some = TypeVar("Some", bound=Options)

OTHERS_NAMES = {
    **dict.fromkeys(("learning_rate", "base_lr"), "lr"),
    **dict.fromkeys(("model", "arch", "architecture", "network", "encoder"), "backbone"),
    **dict.fromkeys(("image_size", "img_size", "input_size"), "crop_size"),
    **dict.fromkeys(("amp", "fp16", "bf16"), "mixed_precision"),
    **dict.fromkeys(("pretrained", "checkpoint", "ckpt", "ckpt_path"), "initial_weights"),
    "wd": "weight_decay",
    "output_dir": "out",
    "save_every": "checkpoint_every",
    "seed_everything": "seed",
}
"""Options as lightly-train, solo-learn, timm and others call them, and as they are called here."""


def _find_nearest(name: str, cls: type[Any]) -> str:
    methods = cls.methods_with(name) if hasattr(cls, "methods_with") else []
    if methods:
        return f" (it is an option of --method {', '.join(methods)})"
    ours = [f.name for f in fields(cls)]
    meant = OTHERS_NAMES.get(name)
    return f" (did you mean {meant}?)" if meant in ours else nearest(name, ours)


class PlainParser(argparse.ArgumentParser):
    """argparse's parser, with one line and exit code 2 for a mistake, as `parse_options` has it."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)


class OptionParser(PlainParser):
    """A parser with a flag for each option of a class, all of them texts, and `--config`.

    Args:
        program: name for messages.
        cls: options class.
        debug: a mistake is a ValueError, and does not end the process.
    """

    def __init__(self, program: str, cls: type[Any], debug: bool) -> None:
        super().__init__(prog=program, allow_abbrev=False, add_help=False)
        self.options_class, self.debug = cls, debug
        self.add_argument("--config", action="append", default=[])
        for field in fields(cls):
            if field.type in (bool, bool | None):  # a switch needs no value, but may have one
                self.add_argument(f"--{field.name}", nargs="?", const="true", default=None)
            else:
                self.add_argument(f"--{field.name}")

    def error(self, message: str) -> NoReturn:
        if unknown := re.search(r"unrecognized arguments: --([\w-]+)", message):
            message += _find_nearest(unknown[1], self.options_class)
        if missing := re.search(r"argument (--\w+): expected one argument", message):
            message += f"; text that begins with - is given as {missing[1]}=-text"
        if self.debug:
            raise ValueError(" ".join(message.split()))
        super().error(message)


def _read_option(file: str, name: str) -> str | None:
    """Text of an option in a YAML file, or in YAML itself.

    None if it is absent or malformed; the parser reports it.
    """
    with contextlib.suppress(Exception):
        given = read_file(find_config(file)).get(name)
        return given.shown if given else None
    return None


def _read_ahead(arguments: Sequence[str], name: str) -> str | None:
    """Value of an option before all are parsed, as flags override files; None if it is not given."""
    found: dict[str, str] = {}
    for argument, following in itertools.pairwise([*arguments, ""]):
        flag, equals, value = argument.partition("=")
        value = value if equals else following
        given = _read_option(value, name) if flag == "--config" else value
        if flag in ("--config", f"--{name}") and given is not None:
            found[flag] = given
    return found.get(f"--{name}", found.get("--config"))


def asks_for_debug(arguments: Sequence[str]) -> bool:
    """Whether a command line, perhaps a wrong one, asks for tracebacks: `--debug`, without or with a value."""
    asked = False
    for argument, following in itertools.pairwise([*arguments, ""]):
        flag, equals, value = argument.partition("=")
        if flag == "--debug":
            asked = (value if equals else following).strip().lower() not in ("false", "no", "off")
    return asked


def _choose_class(cls: type[Any], arguments: Sequence[str]) -> type[Any]:
    """The class with the options of the method that is given, where methods have their own."""
    for_method = getattr(cls, "for_method", None)
    return for_method(_read_ahead(arguments, "method")) if for_method else cls


def _create(cls: type[Any], values: dict[str, Any]) -> Any:
    """The options. Raises ValueError for one that is missing, and for text with a null character."""
    missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in values]
    if missing:
        raise ValueError(f"{', '.join(missing)} must be given (see --help)")
    for name, value in values.items():
        if isinstance(value, str) and "\0" in value:
            raise ValueError(f"{name}={value!r} must have no null character")
    return cls(**values)


def _read_files(files: Sequence[str], cls: type[Any]) -> dict[str, Any]:
    """Values of files of options; a later file overrides an earlier one."""
    kinds = {f.name: f.type for f in fields(cls)}
    values: dict[str, Any] = {}
    for file in files:
        for name, given in read_file(find_config(file)).items():
            mapping = isinstance(given.node, yaml.MappingNode)
            if mapping and not (name in kinds and is_text(kinds[name]) and given.in_brackets):
                raise ValueError(f"{name}: no option is a mapping; options stand side by side")
            if name not in kinds:
                raise ValueError(f"option {name!r} is not accepted{_find_nearest(name, cls)}")
            values[name] = read_given(name, given, kinds[name])
    return values


def _read_options(parser: OptionParser, arguments: Sequence[str]) -> Any:
    """Options of the parser's class, from files and the flags that override them."""
    cls = parser.options_class
    given = vars(parser.parse_args(arguments))
    values = _read_files(given.pop("config"), cls)
    kinds = {f.name: f.type for f in fields(cls)}
    typed = {name: text for name, text in given.items() if text is not None}
    values |= {name: read_text(name, text, kinds[name]) for name, text in typed.items()}
    return _create(cls, values)


def parse_options(
    cls: type[Some], arguments: Sequence[str] | None = None, program: str | None = None
) -> Some:
    """Options from a command line: `--config FILE.yaml`, and flags that override it.

    What follows the flag of a text option is its value as typed, "null" and "#3" too. Other values are
    read as YAML. In a file an unquoted null is None.

    Prints the help, or a mistake in one line, and exits (codes 0 and 2). An unknown key, on the command
    line or in a file, is a mistake; the nearest right one is named. A class with `for_method` has the
    options of the method that is given.

    Args:
        cls: options class.
        arguments: without the program's name. Default: those of this process.
        program: name for the help and for messages. Default: that of this process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    program = program or Path(sys.argv[0]).name
    parser, debug = PlainParser(prog=program, add_help=False), asks_for_debug(given)
    try:
        chosen = _choose_class(cls, given)
        if {"--help", "-h"} & set(given):
            print(format_help(chosen, program), end="")
            sys.exit(0)
        return _read_options(OptionParser(program, chosen, debug), given)
    except Exception as error:  # YAML's own kinds, a RecursionError
        if debug:
            raise ValueError(" ".join(str(error).split())) from error
        parser.error(str(error))


def name_first(arguments: Sequence[str], name: str) -> list[str]:
    """Arguments in which a first one without a flag has the flag of the option `name`."""
    first = list(arguments[:1])
    if first and not first[0].startswith("-"):
        first = [f"--{name}", *first]
    return [*first, *arguments[1:]]


def create_options(cls: type[Some], values: Mapping[str, Any]) -> Some:
    """Options from Python values, which are checked as those of a command line are.

    Args:
        cls: options class; one with `for_method` has the options of the method that is given.
        values: options by name; the others have their defaults. Paths may be Path objects.

    Raises ValueError for an unknown name (the nearest right one is named), a value of another type, and
    whatever the class does not accept.
    """
    texts = {
        name: None if value is None else to_text(name, value) for name, value in values.items()
    }
    chosen = _choose_class(cls, [f"--method={texts['method']}"] if texts.get("method") else [])
    kinds = {field.name: field.type for field in fields(chosen)}
    read: dict[str, Any] = {}
    for name, text in texts.items():
        if name not in kinds:
            raise ValueError(f"{name!r} is not an option{_find_nearest(name, chosen)}")
        read[name] = read_text(name, text, kinds[name], str(values[name]))
    return _create(chosen, read)


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
