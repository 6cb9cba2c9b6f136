"""Values of options, from the text of a command line and from YAML files.

Text is text: what stands behind the flag of a text option, or in a file, arrives as it was typed. Only the
values of other options are given to jsonargparse, which reads them as YAML and converts them.
"""

import contextlib
import re
import types
from argparse import ArgumentError
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from sslortho.options import nearest
from sslortho.recipes.help import describe_type

NULL = "tag:yaml.org,2002:null"

PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool")) | {
    NULL
}
"""Tags that a file may write out, such as !!str; all others would make objects of some kind."""

NULLS = ("null", "Null", "NULL", "~")

PLAIN = re.compile(r"[\w\s.,+\[\]-]+", re.ASCII)
"""Numbers, switches and lists of those. YAML reads more: 1:30 as 90, and #3 as nothing."""

LEADING_ZEROS = re.compile(r"(?<![\w.])0[0_]*(?=\d)", re.ASCII)
"""They would make a number octal to YAML: 010 is 10 here."""


class _TextLoader(yaml.BaseLoader):
    """YAML whose unquoted values are text, apart from null."""


_TextLoader.add_implicit_resolver(NULL, re.compile(f"(?:{'|'.join(NULLS)}|)$"), ["~", "n", "N", ""])


def _parts(kind: Any) -> tuple[Any, ...]:
    """Alternatives of a type."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _choices(kind: Any) -> list[Any]:
    return [c for part in _parts(kind) if get_origin(part) is Literal for c in get_args(part)]


def is_text(kind: Any) -> bool:
    """Whether an option of this type takes any text."""
    return str in _parts(kind)


def _describe_wrong(name: str, shown: str, kind: Any) -> str:
    """A message for a value of another type, in the words of `--help`."""
    if shown == "null":
        return f"{name}: null is no value for it; leave it out for its default"
    if choices := list(map(str, _choices(kind))):
        return f"{name}={shown} is not one of {', '.join(choices)}{nearest(shown, choices)}"
    wanted = describe_type(kind)
    words = {"INTEGER": "a whole number", "NUMBER": "a number", "TEXT": "text"}
    return f"{name}={shown} must be {words.get(wanted, wanted.strip('[]').replace('|', ' or '))}"


def _convert(name: str, value: Any, kind: Any, shown: str) -> Any:
    """Value of a type from None, text or a list of those. Raises ValueError if it is none."""
    if isinstance(value, str) and (is_text(kind) or value in _choices(kind)):
        return value
    if value is None and type(None) in _parts(kind):
        return None
    found = _parse(value, kind)
    if found is None:
        raise ValueError(_describe_wrong(name, shown, kind))
    return found


def _parse(value: Any, kind: Any) -> Any:
    """Value of a type from text or a list of texts, by jsonargparse; None if it is none."""
    parts = value if isinstance(value, list) else [value]
    plain = [p for p in parts if isinstance(p, str) and PLAIN.fullmatch(p)]
    if len(plain) < len(parts):
        return None
    from jsonargparse import ArgumentParser

    decimal = [LEADING_ZEROS.sub("", part) for part in plain]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    with contextlib.suppress(ArgumentError, ValueError, OverflowError, RecursionError):
        given = {"value": decimal if isinstance(value, list) else decimal[0]}
        return parser.parse_object(given, defaults=False)["value"]
    return None


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
            return "null" if self.node.tag == NULL else self.node.value
        return self.source[self.node.start_mark.index : self.node.end_mark.index].strip()

    @property
    def in_brackets(self) -> bool:
        """Whether it is a list or mapping of one line, such as [a] or {a: b}."""
        return isinstance(self.node, yaml.CollectionNode) and bool(self.node.flow_style)


def _read_node(node: yaml.Node) -> Any:
    """None, text, or a list of those. Nodes in a list's lists stay: no option takes them."""
    if not isinstance(node, yaml.ScalarNode):
        return [_read_node(n) if isinstance(n, yaml.ScalarNode) else n for n in node.value]
    if node.tag not in PLAIN_TAGS:
        raise yaml.YAMLError(f"no option takes the tag {node.tag}; quote text that begins with !")
    return None if node.tag == NULL else node.value


def read_given(name: str, given: Given, kind: Any) -> Any:
    """Value of an option from YAML. Raises ValueError if it is of another type, YAMLError for a tag."""
    if is_text(kind) and given.in_brackets:
        return given.shown
    return _convert(name, _read_node(given.node), kind, given.shown)


def read_text(name: str, text: str | None, kind: Any, shown: str | None = None) -> Any:
    """Value of an option from a command line, or None. Raises ValueError if it is of another type.

    Args:
        name: of the option, for the message.
        text: what was given.
        kind: the option's type.
        shown: what the message shows in place of the text.
    """
    null = text is None or (text in NULLS and not is_text(kind))
    return _convert(name, None if null else text, kind, "null" if null else shown or text or "")


def read_file(given: str) -> dict[str, Given]:
    """Options in a YAML file, or in YAML itself, by name.

    Raises YAMLError for what is no mapping from names to values, an option given twice, and a text that YAML
    would leave out; OSError and UnicodeError for a file that cannot be read.
    """
    path = Path(given).expanduser()
    text = path.read_text(encoding="utf-8") if _is_file(path) else given
    top = yaml.compose(text, Loader=_TextLoader)
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
