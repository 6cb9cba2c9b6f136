"""Files that are either whole or absent."""

import contextlib
import glob
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO


def find_partials(path: Path) -> list[Path]:
    """Unfinished files of `path`: of processes that were killed, or that are writing now."""
    beginning, end = f".{path.name}.", ".partial"
    names = path.parent.glob(f"{glob.escape(beginning)}*{end}")
    return sorted(p for p in names if "." not in p.name[len(beginning) : -len(end)])


@contextlib.contextmanager
def atomic_file(path: Path, final: Callable[[], Path] | None = None) -> Iterator[IO[bytes]]:
    """Open a file for writing (seekable) that replaces `path` once it is complete on the disk.

    A reader of `path` sees the old content or the new, never a part. If the block raises
    (KeyboardInterrupt too), `path` stays as it was and no partial file remains. If `path` is a link, it stays,
    and the file that it leads to is replaced.

    Args:
        path: the file.
        final: called when all is on the disk, just before the file takes its name; it returns the path to
            use, in the same folder.
    """
    if final is None:
        path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
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
