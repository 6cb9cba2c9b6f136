"""Names of a package that are imported when they are first used (PEP 562)."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def import_on_use(package: str, home: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for a package whose names live in other modules.

    Args:
        package: its `__name__`.
        home: public name to the module that defines it.
    """

    def find(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(home[name]), name)

    return find
