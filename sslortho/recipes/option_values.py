"""Values of options, from the text of a command line and from YAML files.

Text is text: what stands behind the flag of a text option, or in a file, arrives as it was typed. Only the
values of other options are read as YAML.
"""

import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from yaml.constructor import SafeConstructor

from sslortho.options import nearest
from sslortho.recipes.help import describe_type

PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null")
)
"""Tags that a file may write out, such as !!str; all others would make objects of some kind."""


class WrongValueError(ValueError):
    """A value is not of its option's type."""


def _parts(kind: Any) -> tuple[list[Any], bool]:
    """Alternatives of a type, and whether None is one of them."""
    if get_origin(kind) in (Union, types.UnionType):
        kinds = get_args(kind)
        return [part for part in kinds if part is not type(None)], type(None) in kinds
    return [kind], False


def is_text(kind: Any) -> bool:
    """Whether an option of this type takes any text."""
    return str in _parts(kind)[0]


def describe_wrong(name: str, shown: str, kind: Any) -> str:
    """A message for a value of another type, in the words of `--help`."""
    wanted = describe_type(kind)
    choices = [
        str(c) for part in _parts(kind)[0] if get_origin(part) is Literal for c in get_args(part)
    ]
    if choices:
        return f"{name}={shown} is not one of {', '.join(choices)}{nearest(shown, choices)}"
    words = {"INTEGER": "a whole number", "NUMBER": "a number", "TEXT": "text"}
    return f"{name}={shown} must be {words.get(wanted, wanted.strip('[]').replace('|', ' or '))}"


@dataclass(frozen=True)
class Given:
    """An option's value as a YAML file has it."""

    node: yaml.Node
    source: str
    """Text of the whole file."""

    @property
    def shown(self) -> str:
        """The value as it stands in the file."""
        if isinstance(self.node, yaml.ScalarNode):
            return self.node.value
        return self.source[self.node.start_mark.index : self.node.end_mark.index].strip()

    @property
    def in_brackets(self) -> bool:
        """Whether it is a list or mapping of one line, such as [a] or {a: b}."""
        return isinstance(self.node, yaml.CollectionNode) and bool(self.node.flow_style)


def _read_whole_number(text: str) -> int:
    """The decimal number, also with underscores, or one with a prefix: 0x10."""
    try:
        return int(text)
    except ValueError:
        return int(text, 0)


def _read_number(text: str) -> float:
    special = text.lower().lstrip("+-")
    return float(text.replace(".", "", 1) if special in (".inf", ".nan") else text)


def _read_switch(text: str) -> bool:
    return SafeConstructor.bool_values[text.lower()]


_SCALARS: dict[Any, Callable[[str], Any]] = {
    int: _read_whole_number,
    float: _read_number,
    bool: _read_switch,
    str: str,
}


def _read_scalar(text: str, kind: Any) -> Any:
    if get_origin(kind) is Literal:
        if text in get_args(kind):
            return text
        raise WrongValueError
    if kind not in _SCALARS or not (kind is str or text.isascii()):
        raise WrongValueError
    try:
        return _SCALARS[kind](text)
    except (ValueError, KeyError) as error:
        raise WrongValueError from error


def _read_several(given: Given, kind: Any) -> Any:
    """A list or tuple of values of one type each."""
    origin, inner = get_origin(kind), get_args(kind)
    node = given.node
    if origin not in (list, tuple) or not isinstance(node, yaml.SequenceNode):
        raise WrongValueError
    items = [Given(item, given.source) for item in node.value]
    kinds = inner if origin is tuple else inner * len(items)
    if len(kinds) != len(items):
        raise WrongValueError
    return origin(read_given(item, part) for item, part in zip(items, kinds, strict=True))


def _is_null(node: yaml.ScalarNode) -> bool:
    return node.style is None and node.tag == "tag:yaml.org,2002:null"


def read_given(given: Given, kind: Any) -> Any:
    """Value of a type from YAML. Raises WrongValueError if it is none, YAMLError for a tag."""
    node, (kinds, optional) = given.node, _parts(kind)
    if isinstance(node, yaml.ScalarNode):
        _check_tag(node)
        if _is_null(node):
            if optional:
                return None
            raise WrongValueError
    elif str in kinds and given.in_brackets:  # [a] and {a: b} are text to an option that takes text
        return given.shown
    for part in kinds:
        try:
            if isinstance(node, yaml.ScalarNode):
                return _read_scalar(node.value, part)
            return _read_several(given, part)
        except WrongValueError:
            continue
    raise WrongValueError


def _check_tag(node: yaml.ScalarNode) -> None:
    """Raise YAMLError for a tag that is written out and asks for more than a plain value."""
    implicit = yaml.SafeLoader("").resolve(yaml.ScalarNode, node.value, (True, False))
    if node.tag not in PLAIN_TAGS and (node.style is not None or node.tag != implicit):
        raise yaml.YAMLError(f"no option takes the tag {node.tag}; quote text that begins with !")


def read_text(text: str, kind: Any) -> Any:
    """Value of a type from a command line. Raises WrongValueError if it is none."""
    kinds, _ = _parts(kind)
    if str in kinds:
        return text
    for part in kinds:
        if get_origin(part) is Literal and text in get_args(part):
            return text
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            raise WrongValueError
        return read_given(Given(node, text), kind)
    except (yaml.YAMLError, RecursionError) as error:
        raise WrongValueError from error


def read_file(given: str) -> dict[str, Given]:
    """Options in a YAML file, or in YAML itself, by name.

    Raises YAMLError for what is no mapping from names to values, an option given twice, and a text that YAML
    would leave out; OSError and UnicodeError for a file that cannot be read.
    """
    path = Path(given).expanduser()
    text = path.read_text(encoding="utf-8") if _is_file(path) else given
    top = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(top, yaml.MappingNode) or top.tag != "tag:yaml.org,2002:map":
        raise yaml.YAMLError("the options must stand as lines of the form 'name: value'")
    found: dict[str, Given] = {}
    for key, node in top.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.YAMLError(
                "a list or mapping for an option's name (unhashable); names are text"
            )
        if key.value in found:
            raise yaml.YAMLError(f"{key.value} is given twice; leave one of them out")
        if isinstance(node, yaml.ScalarNode) and not node.value and node.style is None:
            _check_empty(key, text)
        found[key.value] = Given(node, text)
    return found


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # YAML itself, too long for a name
        return False


def _check_empty(key: yaml.ScalarNode, text: str) -> None:
    """Raise YAMLError for a value that was meant as text, and is a comment or a mark of YAML's."""
    rest = text[key.end_mark.index :].split("\n", 1)[0].lstrip(" \t:")
    comment = rest.startswith("#") and rest[1:2].strip() not in ("", "#")
    if comment or rest.startswith("&"):
        raise yaml.YAMLError(
            f"{key.value}: {rest} is empty to YAML; quote text that begins with # or &, and write null "
            "for none"
        )
