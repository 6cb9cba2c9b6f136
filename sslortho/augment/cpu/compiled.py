"""How the kernels of this folder are compiled."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit


def _sources() -> str:
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


SOURCES = _sources()


def kernel(function: Callable[..., Any]) -> Any:
    """Compile for this processor at the first call, free of the GIL, and keep the result on disk.

    Strictly by the rules of IEEE 754, without "fast math": what a kernel computes must not depend on
    what it is compiled into, since views are to be equal bit for bit whatever they are read from.
    (Left unsaid, numba takes the mode of the function whose compilation first asks for the kernel.)

    What is kept counts until its file or any of this folder changes: numba alone looks at the file of the
    function that is called, and would go on with an old version of what it calls elsewhere.
    """
    options = {"nogil": True, "error_model": "numpy", "fastmath": False}
    try:
        compiled: Any = njit(cache=True, **options)(function)
        compiled._cache._cache_file._source_stamp  # noqa: B018
    except (RuntimeError, AttributeError):
        # no folder to write to, or another numba than we know: compile anew in each process
        return njit(**options)(function)
    own = Path(function.__code__.co_filename).read_bytes()  # kernels may live elsewhere
    compiled._cache._cache_file._source_stamp = SOURCES + hashlib.sha256(own).hexdigest()
    return compiled
