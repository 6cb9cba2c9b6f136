"""`kernel`: how the functions of this room that numba compiles are compiled and kept on disk."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit


def _hash_sources() -> str:
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


SOURCES = _hash_sources()
"""Hash of all source files of `sslortho.augment`."""


def must_compile(compiled: Any) -> bool:
    """Whether the next call of a kernel will compile it: neither this process nor the disk has it.

    numba keeps an index beside its results. A key of it is (signature, processor, ...), and it is empty if
    the sources have changed.
    """
    if compiled.signatures:
        return False
    try:
        index = compiled._cache._cache_file._load_index()
        processor = compiled.targetctx.codegen().magic_tuple()
        return not any(key[1] == processor for key in index)
    except (AttributeError, TypeError, IndexError, OSError):  # nothing is kept, or other internals
        return True


def is_kept(compiled: Any) -> bool:
    """Whether the compiled form of a kernel goes to the disk; if not, each process compiles anew."""
    return hasattr(getattr(compiled, "_cache", None), "_cache_file")


def kernel(function: Callable[..., Any]) -> Any:
    """Compile for this processor at the first call, without the GIL, and keep the result on disk.

    Arithmetic follows IEEE 754 strictly, without "fast math". Views must be equal bit for bit
    whatever they are read from, so a kernel's result must not depend on its caller. (Unless told,
    numba compiles a kernel in the mode of the function that first asks for it.)

    A result on disk is valid until the kernel's own file or any file of this room changes. numba by
    itself checks only the file of the function that is called, and would go on using an old version
    of a function in another file.
    """
    options = {"nogil": True, "error_model": "numpy", "fastmath": False}
    try:
        compiled: Any = njit(cache=True, **options)(function)
        compiled._cache._cache_file._source_stamp  # noqa: B018
    except (RuntimeError, AttributeError):
        # no folder to write to, or a numba with other internals: compile anew in each process
        return njit(**options)(function)
    own = Path(function.__code__.co_filename).read_bytes()  # kernels may live elsewhere
    compiled._cache._cache_file._source_stamp = SOURCES + hashlib.sha256(own).hexdigest()
    return compiled
