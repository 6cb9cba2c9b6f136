"""Rows of features on the disk, written part by part, by several processes, and kept through a kill.

The rows lie in a file of NumPy's, whole from the beginning (sparse, as far as nothing is written). Behind
each part a process appends a line to its journal: first row, number of rows, checksum. A part counts if its
line is whole and its checksum that of the file. So a kill loses the part that was being written, and nothing
before it; a machine that fails loses what its disk had not got yet.
"""

import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslortho.atomic import atomic_file

LINE = re.compile(r"(\d+) (\d+) ([0-9a-f]{8})\n")
"""Line of a journal: first row, number of rows, CRC-32 of their bytes."""


@dataclass(frozen=True)
class FeatureRows:
    """Rows of features in a folder, (rows, dim) of one type.

    Args:
        folder: exists already; one set of rows lies in it.
        rows, dim: shape.
        dtype: "float32" or "float16".
    """

    folder: Path
    rows: int
    dim: int
    dtype: str

    @property
    def path(self) -> Path:
        """File of the rows, which NumPy reads."""
        return self.folder / "rows.npy"

    def create(self) -> NDArray[np.bool_]:
        """Make the file, or take up the one that is there; bool (rows,): rows that it holds already.

        One process calls it, before any other opens the rows.
        """
        if not self._fits():
            for journal in self._journals():
                journal.unlink()
            with atomic_file(self.path) as file:
                header = {"descr": np.dtype(self.dtype).str, "fortran_order": False}
                np.lib.format.write_array_header_1_0(
                    file, {**header, "shape": (self.rows, self.dim)}
                )
                file.truncate(file.tell() + self.rows * self._row_bytes)
        return self._take_stock()

    def writer(self, number: int = 0) -> "RowWriter":
        """Writer of process `number`, each of which writes other rows."""
        return RowWriter(self, number)

    def read(self) -> NDArray[Any]:
        """The rows, mapped into memory."""
        return np.load(self.path, mmap_mode="r")

    def flush(self) -> None:
        """Have the disk hold all that was written."""
        file = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)

    @property
    def _row_bytes(self) -> int:
        return self.dim * np.dtype(self.dtype).itemsize

    def _fits(self) -> bool:
        try:
            found = self.read()
        except (OSError, ValueError, EOFError):
            return False
        return found.shape == (self.rows, self.dim) and found.dtype == np.dtype(self.dtype)

    def _journals(self) -> list[Path]:
        return sorted(self.folder.glob("journal-*.txt"))

    def _entries(self) -> Iterator[tuple[int, int, str]]:
        for journal in self._journals():
            for first, count, checksum in LINE.findall(journal.read_text("ascii", "replace")):
                yield int(first), int(count), checksum

    def _take_stock(self) -> NDArray[np.bool_]:
        """Rows whose checksum holds; the journals become one that names these alone."""
        held, done, lines = self.read(), np.zeros(self.rows, bool), []
        for first, count, checksum in self._entries():
            part = held[first : first + count]
            if len(part) == count and f"{zlib.crc32(part.tobytes()):08x}" == checksum:
                done[first : first + count] = True
                lines.append(f"{first} {count} {checksum}\n")
        journals = self._journals()
        with atomic_file(self.folder / "journal-0.txt") as file:
            file.write("".join(lines).encode())
        for journal in journals:
            if journal.name != "journal-0.txt":
                journal.unlink()
        return done


class RowWriter:
    """Writer of parts of the rows, open in one process; a context manager.

    Args:
        rows: where; `create` has been called.
        number: of this process.
    """

    def __init__(self, rows: FeatureRows, number: int) -> None:
        self.rows = rows
        self.offset = int(rows.read().offset)  # pyright: ignore[reportAttributeAccessIssue]
        self.file = os.open(rows.path, os.O_WRONLY)
        journal = rows.folder / f"journal-{number}.txt"
        self.journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.file)
        os.close(self.journal)

    def write(self, places: NDArray[np.int64], features: NDArray[Any]) -> None:
        """Write rows.

        Args:
            places: ascending numbers of the rows, (n,).
            features: (n, dim), finite.

        Raises:
            ValueError: features of another shape, or too large for float16.
            OSError: the disk is full.
        """
        if features.shape != (len(places), self.rows.dim):
            raise ValueError(
                f"features of shape {features.shape} must be ({len(places)}, {self.rows.dim})"
            )
        if not len(places):
            return
        values = to_dtype(features, self.rows.dtype)
        # runs of consecutive rows: what is left after a kill has gaps
        starts = np.flatnonzero(np.diff(places, prepend=places[:1] - 2) != 1)
        for start, end in zip(starts, [*starts[1:], len(places)], strict=True):
            self._write_run(int(places[start]), values[start:end])

    def _write_run(self, first: int, values: NDArray[Any]) -> None:
        data = values.tobytes()
        row_bytes = len(data) // len(values)
        place, left = self.offset + first * row_bytes, memoryview(data)
        while left:
            written = os.pwrite(self.file, left, place)
            place, left = place + written, left[written:]
        os.write(self.journal, f"{first} {len(values)} {zlib.crc32(data):08x}\n".encode())


def to_dtype(features: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Features as contiguous numbers of a type.

    Raises ValueError for finite values that become infinite.
    """
    largest = float(np.finfo(dtype).max)
    if dtype == "float16" and len(features) and float(np.abs(features).max()) > largest:
        raise ValueError(
            f"features up to {float(np.abs(features).max()):g} do not fit in dtype='float16', whose largest "
            f"number is {largest:g}; take float32"
        )
    return np.ascontiguousarray(features, dtype=dtype)
