"""Name of the argument that a file of weights was given as, in messages."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def argument_named(name: str) -> Iterator[None]:
    """Errors about a file that are raised inside name the argument `name` in place of `backbone_from`."""
    try:
        yield
    except ValueError as error:
        words = str(error).replace("backbone_from=", f"{name}=")
        raise ValueError(words) from error
