"""How the kernels of this folder are compiled."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])

LOOSE = {"reassoc", "contract", "nsz", "arcp"}
"""Sums reordered and products fused, as vectors need; infinities and NaN keep their meaning."""


def _sources() -> str:
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


SOURCES = _sources()


def kernel(function: Function | None = None, *, loose: bool = False) -> Any:
    """Compile for this processor at the first call, free of the GIL, and keep the result on disk.

    What is kept counts until any file of this folder changes: numba alone looks at the file of the
    function that is called, and would go on with an old version of what it calls elsewhere.
    """

    def compile_(function: Function) -> Function:
        options: dict[str, Any] = {"fastmath": LOOSE} if loose else {}
        compiled = njit(nogil=True, cache=True, error_model="numpy", **options)(function)
        file = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
        if hasattr(file, "_source_stamp"):
            file._source_stamp = SOURCES  # pyright: ignore[reportOptionalMemberAccess]
            return compiled
        # another numba than we know, or no folder to write to: compile anew in each process
        return njit(nogil=True, error_model="numpy", **options)(function)

    return compile_ if function is None else compile_(function)
