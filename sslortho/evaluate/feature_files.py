"""Files of features: a row for each image, with its name, its label, and where all of it comes from.

`.npz` is an archive of NumPy: "features", "names", "labels", "classes", and "about", a JSON text. `.parquet`
is a table with the columns "name", "label", "class" and "features", and the same text in its metadata.
`.npy` is the features alone, to be mapped into memory; beside x.npy lie x.rows.csv (name, label, class) and
x.about.json.
"""

import csv
import importlib.util
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslortho.atomic import atomic_file
from sslortho.data.names import to_line

FORMATS = (".npz", ".parquet", ".npy")
"""Suffixes of files of features."""

KEY = b"sslortho"
"""Name of the text about the features in the metadata of a Parquet file."""

GROUP = 1 << 24
"""Bytes of features in a row group of Parquet, about 16 MB: what is held in memory at a time."""


@dataclass(frozen=True, eq=False)
class Features:
    """Features of the images of a data set, in their order, on the CPU."""

    features: Tensor
    """float32 or float16 (n, dim); of a file .npy mapped into memory."""
    labels: Tensor
    """int64 (n,); -1 where an image has none."""
    names: Sequence[str] = ()
    """n paths of the image files, relative to the folder of the data; numbers from 0 where there are none."""
    classes: tuple[str, ...] = ()
    """Names of the classes, by label; empty if they have none."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Where the features come from: "options" of `embed`, "view", "inputs", "weights_from"."""

    @property
    def shape(self) -> torch.Size:
        """Shape of the features, (n, dim)."""
        return self.features.shape

    def __len__(self) -> int:
        return len(self.features)

    def class_of(self, index: int) -> str:
        """Name of an image's class, or its number; "" for an image without a label."""
        return name_class(self.classes, int(self.labels[index]))


def name_class(classes: Sequence[str], label: int, unlabelled: str = "") -> str:
    """Name of a class; its number if classes have no names, and `unlabelled` for -1."""
    if label < 0:
        return unlabelled
    return classes[label] if label < len(classes) else str(label)


def check_format(path: Path) -> None:
    """Raise ValueError for a suffix that is no format, or whose package is not installed."""
    if path.suffix not in FORMATS:
        raise ValueError(
            f"out={str(path)!r} must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        )
    if path.suffix == ".parquet":
        _require_parquet(path)


def _require_parquet(path: Path) -> None:
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError(
            f"{str(path)!r}: files .parquet need pyarrow: pip install 'sslortho[parquet]', or take .npz or .npy"
        )


def sidecars(path: Path) -> tuple[Path, Path]:
    """Files beside a .npy: names and labels of its rows, and where they come from."""
    return path.with_suffix(".rows.csv"), path.with_suffix(".about.json")


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Content of a file of features before it is written."""

    features: NDArray[Any]
    """(n, dim), perhaps mapped into memory."""
    names: Sequence[str]
    labels: NDArray[np.int64]
    """(n,); -1 where an image has none."""
    classes: tuple[str, ...]
    about: Mapping[str, Any]

    def write(self, path: Path, rows: Path | None = None) -> None:
        """Write the file; it is whole or absent at any instant.

        Args:
            path: its suffix decides the format.
            rows: file of NumPy's that holds the features already, on the same file system; a .npy
                takes it over, and copies nothing.

        Raises ValueError as `check_format`.
        """
        check_format(path)
        if path.suffix == ".npz":
            self._write_npz(path)
        elif path.suffix == ".parquet":
            self._write_parquet(path)
        else:
            self._write_npy(path, rows)

    def _write_npz(self, path: Path) -> None:
        arrays = {
            "features": self.features,
            "names": np.array(list(self.names), dtype=str),
            "labels": self.labels,
            "classes": np.array(self.classes, dtype=str),
            "about": np.array(json.dumps(self.about)),
        }
        with atomic_file(path) as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]

    def _write_npy(self, path: Path, rows: Path | None) -> None:
        table, about = sidecars(path)
        path.unlink(missing_ok=True)  # an old one must not be seen beside the new names
        with atomic_file(table) as file:
            text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(("name", "label", "class"))
            for name, label in zip(self.names, self.labels.tolist(), strict=True):
                writer.writerow((name, label, name_class(self.classes, label)))
            text.flush()
            text.detach()
        with atomic_file(about) as file:
            content = {**self.about, "classes": list(self.classes)}
            file.write((json.dumps(content, indent=2) + "\n").encode())
        if rows is not None:
            rows.replace(path)
            return
        with atomic_file(path) as file:
            np.save(file, self.features)

    def _write_parquet(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        dim = self.features.shape[1]
        number = pa.from_numpy_dtype(self.features.dtype)
        fields = [
            pa.field("name", pa.string()),
            pa.field("label", pa.int64()),
            pa.field("class", pa.string()),
            pa.field("features", pa.list_(number, dim)),
        ]
        about = json.dumps({**self.about, "classes": list(self.classes)})
        schema = pa.schema(fields, metadata={KEY: about.encode()})
        with atomic_file(path) as file, pq.ParquetWriter(file, schema) as writer:
            for part in self._groups():
                values = pa.array(np.ascontiguousarray(self.features[part]).reshape(-1), number)
                labels = self.labels[part].tolist()
                columns = [
                    pa.array([_plain(name) for name in self.names[part]], pa.string()),
                    pa.array([None if label < 0 else label for label in labels], pa.int64()),
                    pa.array([name_class(self.classes, n) or None for n in labels], pa.string()),
                    pa.FixedSizeListArray.from_arrays(values, dim),
                ]
                writer.write_table(pa.table(columns, schema))

    def _groups(self) -> Iterator[slice]:
        count, dim = self.features.shape
        rows = max(1, GROUP // max(1, dim * self.features.itemsize))
        return (slice(first, first + rows) for first in range(0, count, rows))


def _plain(name: str) -> str:
    """Name as Unicode: bytes that are none, which Parquet cannot hold, are written out."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return to_line(name)
    return name


def read_about(path: Path) -> dict[str, Any]:
    """Where the features of a file come from, without reading them.

    Raises ValueError for a file that is damaged, or was not written here.
    """
    _check_there(path)
    try:
        if path.suffix == ".npz":
            with np.load(path) as archive:
                text = str(archive["about"])
        elif path.suffix == ".parquet":
            _require_parquet(path)
            import pyarrow.parquet as pq

            text = pq.read_schema(path).metadata[KEY]
        else:
            text = sidecars(path)[1].read_text()
        about = json.loads(text)
        return dict(about)
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error


def holds_features(path: Path) -> bool:
    """Whether a file is one of features, and not of images: those may be .npy and .npz too."""
    if path.suffix not in FORMATS or not path.is_file():
        return False
    if path.suffix == ".npy":
        return sidecars(path)[1].is_file()
    return path.suffix == ".parquet" or (
        zipfile.is_zipfile(path) and "about.npy" in zipfile.ZipFile(path).namelist()
    )


def _check_there(path: Path) -> None:
    if path.suffix not in FORMATS:
        raise ValueError(f"{str(path)!r} is no file of features; they end in {', '.join(FORMATS)}")
    if not path.is_file():
        raise ValueError(f"{str(path)!r} does not exist; sslortho embed RUN --data ... writes it")


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{str(path)!r} cannot be read as features that sslortho embed wrote "
        f"({type(error).__name__}: {error}); write it anew"
    )


def load_features(path: "str | Path") -> Features:
    """Features that `embed` or `extract_features` has written.

    Those of a .npy are mapped into memory and read as they are used, names and labels are read. Whatever is
    changed in the tensor, the file stays as it is.

    Args:
        path: .npz, .parquet or .npy.

    Raises ValueError for a file that does not exist, is damaged, or is of others.
    """
    path = Path(path).expanduser()
    about = read_about(path)
    readers = {".npz": _read_npz, ".parquet": _read_parquet, ".npy": _read_npy}
    try:
        features, names, labels, classes = readers[path.suffix](path, about)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error
    if not len(features) == len(names) == len(labels):
        error = ValueError(f"{len(features)} rows and {len(names)} names")
        raise _unreadable(path, error)
    tensors = torch.from_numpy(features), torch.from_numpy(labels)
    return Features(*tensors, names, tuple(classes), about)


Parts = tuple[NDArray[Any], list[str], NDArray[np.int64], Sequence[str]]
"""Features, names, labels and classes."""


def _read_npz(path: Path, about: Mapping[str, Any]) -> Parts:
    with np.load(path) as archive:
        names, classes = archive["names"].tolist(), archive["classes"].tolist()
        return archive["features"], names, archive["labels"], classes


def _read_npy(path: Path, about: Mapping[str, Any]) -> Parts:
    # copy on write: torch has no tensors that cannot be written
    features = np.load(path, mmap_mode="c", allow_pickle=False)
    names, labels = [], np.empty(len(features), np.int64)
    with sidecars(path)[0].open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        for i, row in enumerate(csv.DictReader(file)):
            names.append(row["name"])
            if i < len(labels):
                labels[i] = int(row["label"])
    return features, names, labels, about["classes"]


def _read_parquet(path: Path, about: Mapping[str, Any]) -> Parts:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    column = table.column("features").combine_chunks()
    dim = column.type.list_size
    features = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
    labels = table.column("label").fill_null(-1).to_numpy().astype(np.int64)
    return features.copy(), table.column("name").to_pylist(), labels, about["classes"]
