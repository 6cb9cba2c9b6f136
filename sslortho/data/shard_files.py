"""Files of tar shards, on a disk or at an address: which there are, and their bytes."""

import contextlib
import io
import os
import re
import threading
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import IO, Any

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
"""Numbers of shards: {000..012}."""

SIGNS = (
    "ETag", "etag", "Content-MD5", "md5Hash", "Last-Modified", "LastModified", "last_modified", "mtime",
)  # fmt: skip
"""Entries that tell a file from an earlier one in fsspec's `info`, as servers and stores name them. Tar
files are padded to blocks of 10 KB, so that many have the same size."""

MOST_OPEN = 128
"""Shards that stay open; further ones are opened for each image. A process may have 1,024 files open, or 256
(macOS)."""


def is_address(path: str) -> bool:
    """Whether it is an address, such as https://... or s3://..., and no path."""
    return "://" in path


def expand_shards(path: str) -> list[str]:
    """Paths or addresses of the shards that a pattern or a file names, in their order.

    Raises ValueError if there are none, and for a range of numbers that runs backwards.
    """
    found = _expand_ranges(path)
    if not is_address(path) and len(found) == 1 and not Path(path).exists():
        found = sorted(glob(path))  # noqa: PTH207 - of the pattern as it is typed
    if not found:
        raise ValueError(f"data={path!r} names no shards; give 'x-{{000..012}}.tar' or 'x-*.tar'")
    return found


def _expand_ranges(path: str) -> list[str]:
    found = RANGE.search(path)
    if found is None:
        return [path]
    first, last = int(found[1]), int(found[2])
    if last < first:
        raise ValueError(
            f"data={path!r}: {found[0]} runs backwards; write the smaller number first"
        )
    width = len(found[1])
    parts = [
        f"{path[: found.start()]}{i:0{width}d}{path[found.end() :]}" for i in range(first, last + 1)
    ]
    return [place for part in parts for place in _expand_ranges(part)]


class Shards:
    """Reads bytes of shards, by several threads at a time.

    Args:
        places: paths or addresses.

    Raises ValueError for an address where fsspec is missing.
    """

    def __init__(self, places: Sequence[str]) -> None:
        self.places = list(places)
        self._files: dict[int, int] = {}
        """Descriptors of shards that stay open."""
        self._lock = threading.Lock()
        self.is_remote = any(map(is_address, places))
        """Whether the shards lie at addresses."""
        self._remotes: dict[int, Any] = {}
        """File system of fsspec by the process that opened it: one does not live on after a fork."""
        if self.is_remote:
            self._remote()

    def __reduce__(self) -> "tuple[type[Shards], tuple[list[str]]]":
        return type(self), (self.places,)  # to a process that was spawned

    def _remote(self) -> Any:
        process = os.getpid()
        if process not in self._remotes:
            self._remotes[process] = _open_remote(self.places[0])
        return self._remotes[process]

    def open(self, shard: int) -> contextlib.AbstractContextManager[IO[bytes]]:
        """A shard as a file."""
        if self.is_remote:
            return self._remote().open(self.places[shard], "rb")
        return Path(self.places[shard]).open("rb")

    def version(self, shard: int) -> str:
        """Size and time of change of a shard; of one at an address its size, and what else tells a change."""
        if self.is_remote:
            about = self._remote().info(self.places[shard])
            told = [about.get("size"), *(about.get(name) for name in SIGNS)]
            return " ".join(str(value) for value in told if value is not None)
        state = Path(self.places[shard]).stat()
        return f"{state.st_size} {state.st_mtime_ns}"

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Bytes of a shard. Raises OSError if it cannot be read, or is shorter."""
        if self.is_remote:
            content = self._remote().cat_file(self.places[shard], start=offset, end=offset + size)
        else:
            with self._opened(shard) as file:
                content = os.pread(file, size, offset)
        if len(content) != size:
            raise OSError(
                f"{self.places[shard]} gives {len(content)} bytes for {size} at {offset}: it has changed, or "
                "is at an address that gives whole files alone"
            )
        return content

    @contextlib.contextmanager
    def _opened(self, shard: int) -> Iterator[int]:
        """Descriptor of a shard's file, which stays open while there are few."""
        with self._lock:
            file = self._files.get(shard)
            kept = file is not None or len(self._files) < MOST_OPEN
            if file is None and kept:
                file = self._files[shard] = os.open(self.places[shard], os.O_RDONLY)
        if file is None:  # other threads need not wait for it
            file = os.open(self.places[shard], os.O_RDONLY)
        try:
            yield file
        finally:
            if not kept:
                os.close(file)

    def __del__(self) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):
                os.close(file)


def _open_remote(place: str) -> Any:
    try:
        import fsspec  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            f"data={place!r} is an address, which fsspec reads: pip install 'fsspec[http]', or copy the "
            "shards to a disk"
        ) from error
    try:
        return fsspec.core.url_to_fs(place)[0]
    except (ImportError, ValueError) as error:
        raise ValueError(f"data={place!r} cannot be read by fsspec ({error})") from error


class ShardPart(io.RawIOBase):
    """Part of a shard, such as an image, as a file of its own, of which only what is asked for is read."""

    def __init__(self, shards: Shards, shard: int, offset: int, size: int) -> None:
        self._place = shards, shard, offset
        self._size, self._position = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        shards, shard, offset = self._place
        count = max(0, min(len(buffer), self._size - self._position))
        if count:
            buffer[:count] = shards.read(shard, offset + self._position, count)
            self._position += count
        return count
