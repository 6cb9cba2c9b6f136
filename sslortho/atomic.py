"""Files that are either whole or not there."""

import contextlib
import glob
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO


def find_partials(path: Path) -> list[Path]:
    """What killed processes have left of `path`, or others are writing now."""
    return sorted(path.parent.glob(f".{glob.escape(path.name)}.*.partial"))


@contextlib.contextmanager
def atomic_file(path: Path, final: Callable[[], Path] | None = None) -> Iterator[IO[bytes]]:
    """A file to write (seekable), which takes the place of `path` once it is whole on the disk.

    Whoever looks at `path` sees the old content or the new, never a part, whatever happens. If the
    block raises (a KeyboardInterrupt too), `path` stays as it was and nothing is left behind.

    Args:
        path: the file.
        final: where the name depends on the content: called when all is written, it returns the path
            to take, in the same folder.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb", buffering=1 << 20) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(final() if final else path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)
