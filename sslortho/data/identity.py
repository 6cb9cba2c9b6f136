"""Identity of an image set: what tells it from another, wherever its files lie."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslortho.data.names import compose, join_first, to_line

SIZES_READ = 100_000
"""Files up to which the size of each is read. Asking a local disk for it takes 2 microseconds and more, so
1.3 million would take longer than the rest."""

SIZES_SAMPLED = 20_000
"""Files of a larger set whose sizes are read, spread evenly."""

ENDS_READ = 1_000
"""Files up to which the end of each is hashed; of more files as many, spread evenly. It tells images that
were replaced by others of the same size in bytes, as uncompressed ones all have."""

END = 1 << 16
"""Bytes of an end. It holds pixels in every format, where a beginning may hold descriptions alone."""


@dataclass(frozen=True, eq=False)
class ImageTable:
    """Names, sizes and labels of images, in the order of their indices.

    Two sets with the same `digest` give the same training: the same images, in the same order, with the
    same labels.
    """

    labels: NDArray[np.int64]
    """(n,); -1 for an image without a label."""
    classes: tuple[str, ...]
    """Names of the classes, by label."""
    names: Sequence[str] | None = None
    """Paths of the files, relative to the folder of their split; None if the images are no files."""
    sizes: NDArray[np.int64] | None = None
    """(n,): bytes of the files; -1 where it was not read."""
    ends: NDArray[np.int64] | None = None
    """(n,): hashes of the files' ends; 0 where it was not read."""
    content: str = ""
    """Hash of what the other fields do not tell: pixels of images in memory, the source of a beton."""

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: NDArray[np.int64]) -> "ImageTable":
        """Table of these images alone, in this order; indices (m,)."""
        names = None if self.names is None else [self.names[int(i)] for i in indices]
        sizes = None if self.sizes is None else self.sizes[indices]
        ends = None if self.ends is None else self.ends[indices]
        return ImageTable(self.labels[indices], self.classes, names, sizes, ends, self.content)

    @cached_property
    def digest(self) -> str:
        """Hash of all fields. Names that differ in their Unicode form alone count as equal."""
        digest = hashlib.blake2b(digest_size=16)
        sizes = [] if self.sizes is None else self.sizes
        ends = [] if self.ends is None else self.ends
        for part in (
            repr((len(self), [compose(name) for name in self.classes], self.content)).encode(),
            _to_bytes(compose("\0".join(self.names or ()))),
            np.asarray(sizes, "<i8").tobytes(),
            np.asarray(ends, "<i8").tobytes(),
            np.asarray(self.labels, "<i8").tobytes(),
        ):
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest()

    def state(self) -> dict[str, Any]:
        """Identity for checkpoints and summaries: numbers of images and classes, and hashes.

        "class_names" is the hash of the classes' names, "digest" that of everything.
        """
        names = "\0".join(compose(name) for name in self.classes)
        return {
            "count": len(self),
            "classes": len(self.classes),
            "class_names": hashlib.blake2b(_to_bytes(names), digest_size=8).hexdigest(),
            "digest": self.digest,
        }


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def read_sizes(paths: Sequence[str]) -> NDArray[np.int64]:
    """Bytes of files, int64 (n,); of more than SIZES_READ those of SIZES_SAMPLED, and -1 for the others.

    A file that is gone has -1 too: whoever opens it says so.
    """
    sizes = np.full(len(paths), -1, np.int64)
    count = len(paths) if len(paths) <= SIZES_READ else SIZES_SAMPLED
    for i in map(int, np.linspace(0, len(paths) - 1, count)):
        try:
            sizes[i] = os.stat(paths[i]).st_size  # noqa: PTH116 - a Path takes three times as long
        except OSError:
            continue
    return sizes


def read_ends(paths: Sequence[str]) -> NDArray[np.int64]:
    """Hashes of the last bytes of files, int64 (n,); of more than ENDS_READ those of some, and 0 for the
    others, and for a file that cannot be read.
    """
    ends = np.zeros(len(paths), np.int64)
    count = min(len(paths), ENDS_READ)
    for i in map(int, np.linspace(0, len(paths) - 1, count)):
        try:
            with open(paths[i], "rb") as file:  # noqa: PTH123
                file.seek(max(0, os.fstat(file.fileno()).st_size - END))
                found = hashlib.blake2b(file.read(END), digest_size=8).digest()
        except OSError:
            continue
        ends[i] = int.from_bytes(found, "little", signed=True)
    return ends


def hash_arrays(*arrays: NDArray[Any]) -> str:
    """Hash of the shapes, types and values of arrays."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(repr((array.shape, array.dtype.str)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def hash_array(array: NDArray[Any]) -> int:
    """Hash of the shape, type and values of an array, as `ImageTable.ends` holds it; never 0."""
    digest = hashlib.blake2b(repr((array.shape, array.dtype.str)).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(array).data)
    return int.from_bytes(digest.digest(), "little", signed=True) or 1


def describe_difference(before: ImageTable, now: ImageTable) -> str:
    """Changes from one table to another, in words; empty if their digests are the same."""
    if before.digest == now.digest:
        return ""
    changes = _compare_classes(before.classes, now.classes)
    if before.names is None or now.names is None:
        changes += _compare_unnamed(before, now)
    else:
        changes += _compare_files(before, now)
    return "; ".join(changes) or "the files are the same and their source is another"


def _compare_classes(before: tuple[str, ...], now: tuple[str, ...]) -> list[str]:
    gone = [name for name in before if name not in set(now)]
    new = [name for name in now if name not in set(before)]
    return [
        f"{len(names)} {'class is' if len(names) == 1 else 'classes are'} {word} ({_show(names)})"
        for names, word in ((gone, "gone"), (new, "new"))
        if names
    ]


def _compare_unnamed(before: ImageTable, now: ImageTable) -> list[str]:
    if len(before) != len(now):
        return [f"there were {len(before)} images, there are {len(now)}"]
    relabelled = int((before.labels != now.labels).sum())
    if relabelled:
        return [f"{relabelled} of {len(now)} images have another label"]
    return [f"the pixels of some of the {len(now)} images are others"]


def _compare_files(before: ImageTable, now: ImageTable) -> list[str]:
    """Changes between tables of files, by their names."""
    assert before.names is not None
    assert now.names is not None
    old = {compose(name): i for i, name in enumerate(before.names)}
    new = {compose(name): i for i, name in enumerate(now.names)}
    gone, added = [n for n in old if n not in new], [n for n in new if n not in old]
    moved = _find_moved(gone, added)
    both = [(name, old[name], i) for name, i in new.items() if name in old]
    relabelled = [n for n, i, j in both if _class(before, i) != _class(now, j)]
    resized = [n for n, i, j in both if _size(before, i) != _size(now, j) and _size(before, i) >= 0]
    replaced = [n for n, i, j in both if _is_replaced(before, i, now, j)]
    lists = {
        "removed": [name for name in gone if name not in moved],
        "added": [name for name in added if name not in set(moved.values())],
        "moved to another folder": [f"{name}, now {moved[name]}" for name in moved],
        "of another class": relabelled,
        "of another size in bytes": resized,
        "of other content": replaced,
    }
    changes = [f"{len(names)} {word} ({_show(names)})" for word, names in lists.items() if names]
    if changes:
        changes[0] = f"of {len(before)} images {changes[0]}"
    elif list(old) != list(new):
        changes = [f"the {len(now)} images are in another order"]
    return changes


def _find_moved(gone: list[str], added: list[str]) -> dict[str, str]:
    """Old path to new path of each file that is in another folder, as far as its name is unique."""
    bare = Counter(name.rpartition("/")[2] for name in (*gone, *added))
    places = {name.rpartition("/")[2]: name for name in added}
    names = [(name, name.rpartition("/")[2]) for name in gone]
    return {name: places[last] for name, last in names if last in places and bare[last] == 2}


def _class(table: ImageTable, index: int) -> str:
    label = int(table.labels[index])
    return table.classes[label] if 0 <= label < len(table.classes) else str(label)


def _size(table: ImageTable, index: int) -> int:
    return -1 if table.sizes is None else int(table.sizes[index])


def _is_replaced(before: ImageTable, old: int, now: ImageTable, new: int) -> bool:
    """Whether a file has another end, at the same size; False where it is not known."""
    if before.ends is None or now.ends is None or _size(before, old) != _size(now, new):
        return False
    one, other = before.ends[old], now.ends[new]
    return bool(one and other and one != other)


def _show(names: Sequence[str]) -> str:
    return join_first([to_line(name) for name in names])
