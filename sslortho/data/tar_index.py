"""Index of tar shards in WebDataset's layout: where each image lies, and its label.

Files of one sample follow each other and have the same name up to the first point: `0001.jpg`, `0001.cls`.
A shard is read once, header by header, and its index is kept in the user's cache folder.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sslortho.atomic import atomic_file
from sslortho.data.dataset_items import LABEL_KEYS
from sslortho.data.names import to_line

SUFFIXES = ("jpg", "jpeg", "png", "webp", "ppm", "bmp", "pgm", "tif", "tiff", "gif")
"""Ends of the names of images in shards."""

VERSION = 3
"""Version of the files in the cache folder."""

MOST_LABEL_BYTES = 1 << 20
"""Bytes of a .cls or .json up to which it is read."""

LARGEST = np.iinfo(np.int64).max
"""Label that stands for all that are larger."""

Open = Callable[[], AbstractContextManager[IO[bytes]]]
"""Opens a shard, from its beginning."""


@dataclass(frozen=True)
class ShardIndex:
    """Samples of a shard, in their order."""

    names: list[str]
    """Names of the image files in the shard, (n,)."""
    offsets: NDArray[np.int64]
    """First byte of each image."""
    sizes: NDArray[np.int64]
    """Bytes of each image."""
    labels: NDArray[np.int64]
    """-1 where a sample has none."""


def read_index(shown: str, version: str, open_shard: Open, suffix: str | None) -> ShardIndex:
    """Index of a shard, from the cache folder if it is there.

    Args:
        shown: path or address of the shard.
        version: tells the shard from others of that name: size and time of change.
        open_shard: opens it.
        suffix: end of the images' names, where samples have several. Default: any of SUFFIXES.

    Raises ValueError, naming the shard, if it is no tar file, is compressed or damaged, or a sample has several
    images.
    """
    place = shown if "://" in shown else os.path.abspath(shown)  # noqa: PTH100 - of links as they are
    key = repr((VERSION, place, version, suffix)).encode("utf-8", "surrogateescape")
    path = _cache_folder() / f"{hashlib.blake2b(key, digest_size=16).hexdigest()}.npz"
    if version and (found := _read_cached(path)) is not None:
        return found
    index = _scan(shown, open_shard, suffix)
    if version:
        _write_cached(path, index)
    return index


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "sslortho" / "shards"


def _read_cached(path: Path) -> ShardIndex | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            text = file["names"].tobytes().decode("utf-8", "surrogateescape")
            names = text.split("\0") if text else []
            return ShardIndex(names, file["offsets"], file["sizes"], file["labels"])
    except Exception:  # absent or damaged: the shard is read again
        return None


def _write_cached(path: Path, index: ShardIndex) -> None:
    names = "\0".join(index.names).encode("utf-8", "surrogateescape")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            np.savez(
                file,  # pyright: ignore[reportArgumentType]
                names=np.frombuffer(names, np.uint8),
                offsets=index.offsets,
                sizes=index.sizes,
                labels=index.labels,
            )
    except OSError:  # no place for a cache
        return


def _scan(shown: str, open_shard: Open, suffix: str | None) -> ShardIndex:
    """Read the headers of a shard, and the small files with labels."""
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, int] = {}
    try:
        with open_shard() as file, tarfile.TarFile(fileobj=file) as tar:
            for member in tar:
                key, end = _split_name(member.name)
                if not (member.isfile() and key and end):
                    continue
                if _is_image(end, suffix):
                    if key in images:
                        raise ValueError(_describe_several(shown, images[key].name, member.name))
                    images[key] = member
                elif end in ("cls", "json") and member.size <= MOST_LABEL_BYTES:
                    content = tar.extractfile(member)
                    label = _read_label(end, content.read() if content else b"")
                    if label is not None and (end == "cls" or key not in labels):
                        labels[key] = label
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"{shown} cannot be read as a tar file ({error}); shards must be whole, and not compressed: "
            "images are already"
        ) from error
    found = images.values()
    return ShardIndex(
        names=[member.name for member in found],
        offsets=np.array([member.offset_data for member in found], np.int64),
        sizes=np.array([member.size for member in found], np.int64),
        labels=np.array([labels.get(key, -1) for key in images], np.int64),
    )


def _split_name(name: str) -> tuple[str, str]:
    """(key of the sample, end of the name in small letters) of a file: split at its first point."""
    folder, _, base = name.rpartition("/")
    stem, _, end = base.partition(".")
    return (f"{folder}/{stem}" if stem else ""), end.lower()


def _is_image(end: str, suffix: str | None) -> bool:
    if suffix is not None:
        return end == suffix.lower().lstrip(".")
    return end.rpartition(".")[2] in SUFFIXES


def _describe_several(shown: str, one: str, other: str) -> str:
    return (
        f"{shown}: a sample has several images ({to_line(one)}, {to_line(other)}); name the suffix of one by "
        "image_column"
    )


def _read_label(end: str, content: bytes) -> int | None:
    """Label in a .cls or .json; None if it has none that is a whole number."""
    try:
        value: Any = int(content) if end == "cls" else json.loads(content)
    except ValueError:
        return None
    if end == "json":
        if not isinstance(value, Mapping):
            return None
        value = next((value[key] for key in LABEL_KEYS if key in value), None)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        return None
    return min(value, LARGEST)  # which `load_shards` refuses
