"""Names of files and folders, compared and printed: they may hold any byte but NUL and the slash."""

import re
import unicodedata
from collections.abc import Sequence

ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
"""Characters that `to_line` writes as two."""

NAMED = 3
"""Names that a message gives of many."""


def compose(name: str) -> str:
    """Name in Unicode's composed form (NFC), by which names are compared.

    macOS writes an accent as a character of its own (NFD), other systems as one with its letter.
    """
    return unicodedata.normalize("NFC", name)


def to_line(name: str) -> str:
    r"""Name as one printable line: `\n`, `\t`, `\\` for these, `\xff` for a byte that is no UTF-8."""
    return "".join(_escape(character) for character in name)


def _escape(character: str) -> str:
    if character in ESCAPES:
        return ESCAPES[character]
    if "\udc80" <= character <= "\udcff":  # a byte that Python could not decode (PEP 383)
        return f"\\x{ord(character) - 0xDC00:02x}"
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
        return f"\\u{ord(character):04x}"
    return character


def join_first(names: Sequence[str]) -> str:
    """The first NAMED of many names, for a message: "a, b, c, ..."."""
    shown = ", ".join(names[:NAMED])
    return f"{shown}, ..." if len(names) > NAMED else shown


def from_line(line: str) -> str:
    """The name that `to_line` made this line of."""
    plain = {text[1]: character for character, text in ESCAPES.items()}

    def undo(found: re.Match[str]) -> str:
        code = found[1]
        if code[0] == "x":
            return chr(0xDC00 + int(code[1:], 16))
        return chr(int(code[1:], 16)) if code[0] == "u" else plain[code]

    return re.sub(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|[\\nrt])", undo, line)
