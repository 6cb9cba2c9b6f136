"""Files of features: what is written is what other libraries and we read."""

import csv
import importlib.util
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from sslortho.evaluate import feature_files
from sslortho.evaluate.feature_files import FeatureTable, load_features, read_about

NAMES = ["a/1.png", 'odd, "name"\n.png', "\u00e9t\u00e9.jpg", "b.png"]
LABELS = np.array([1, -1, 0, 1])
ABOUT = {"dim": 3, "view": {"mean": [0.1, 0.2, 0.3]}}


def table(dtype="float32", names=NAMES):
    features = np.random.default_rng(0).standard_normal((4, 3)).astype(dtype)
    return FeatureTable(features, names, LABELS, ("cat", "dog"), ABOUT)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".parquet"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_format_gives_back_what_was_written(tmp_path, suffix, dtype):
    written, path = table(dtype), tmp_path / f"x.y{suffix}"
    written.write(path)
    found = load_features(path)
    assert found.features.dtype == getattr(torch, dtype)
    np.testing.assert_array_equal(found.features.numpy(), written.features)
    assert list(found.names) == NAMES
    assert found.labels.tolist() == LABELS.tolist()
    assert found.labels.dtype == torch.int64
    assert found.classes == ("cat", "dog")
    assert ABOUT.items() <= read_about(path).items()
    assert [found.class_of(i) for i in range(4)] == ["dog", "", "cat", "dog"]
    assert not list(tmp_path.glob(".*"))


def test_numpy_pandas_and_arrow_read_them_without_us(tmp_path):
    written = table()
    for suffix in (".npz", ".npy", ".parquet"):
        written.write(tmp_path / f"x{suffix}")
    with np.load(tmp_path / "x.npz") as archive:
        np.testing.assert_array_equal(archive["features"], written.features)
        assert archive["names"].tolist() == NAMES
        assert archive["classes"][archive["labels"][0]] == "dog"
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy", mmap_mode="r"), written.features)
    with (tmp_path / "x.rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == NAMES
    assert [row["class"] for row in rows] == ["dog", "", "cat", "dog"]
    assert json.loads((tmp_path / "x.about.json").read_text())["dim"] == 3
    arrow = pq.read_table(tmp_path / "x.parquet")
    frame = arrow.to_pandas()
    np.testing.assert_array_equal(np.stack(frame["features"]), written.features)
    assert frame["name"].tolist() == NAMES
    assert arrow["class"].to_pylist() == ["dog", None, "cat", "dog"]


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_a_name_that_is_no_unicode_comes_back(tmp_path, suffix):
    names = ["\udcff.png", "b", "c", "d"]
    table(names=names).write(tmp_path / f"x{suffix}")
    assert list(load_features(tmp_path / f"x{suffix}").names) == names


def test_parquet_writes_such_a_name_out(tmp_path):
    table(names=["\udcff.png", "b", "c", "d"]).write(tmp_path / "x.parquet")
    assert load_features(tmp_path / "x.parquet").names[0] == r"\xff.png"


def test_parquet_is_written_in_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_files, "GROUP", 2 * 3 * 4)
    written = table()
    written.write(tmp_path / "x.parquet")
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 2
    found = load_features(tmp_path / "x.parquet")
    np.testing.assert_array_equal(found.features.numpy(), written.features)


def test_a_npy_is_mapped_and_what_is_changed_in_it_stays_in_memory(tmp_path):
    table().write(tmp_path / "x.npy")
    found = load_features(tmp_path / "x.npy")
    found.features.zero_()
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), table().features)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npz", None, "does not exist"),
        ("x.csv", b"", "is no file of features"),
        ("x.npz", b"", "cannot be read as features"),
        ("x.parquet", b"no table", "cannot be read as features"),
        ("x.npy", b"", "cannot be read as features"),
    ],
)
def test_files_that_are_none(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_features(tmp_path / name)


def test_a_file_of_others_and_a_npy_without_its_names(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros(3))
    with pytest.raises(ValueError, match="cannot be read as features that sslortho embed wrote"):
        load_features(tmp_path / "x.npz")
    table().write(tmp_path / "x.npy")
    lines = (tmp_path / "x.rows.csv").read_text().splitlines(keepends=True)
    (tmp_path / "x.rows.csv").write_text("".join(lines[:-1]))
    with pytest.raises(ValueError, match="4 rows and 3 names"):
        load_features(tmp_path / "x.npy")


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'sslortho\[parquet\]'"):
        table().write(tmp_path / "x.parquet")
