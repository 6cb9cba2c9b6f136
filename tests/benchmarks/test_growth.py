"""growth.py, at the size of a toy."""

import json
import math
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from growth_parts import made_up
from growth_parts.fit import describe, fit_exponent, predict
from growth_parts.part import Part, measure
from growth_parts.results import describe_parts
from sslortho.data.beton.images import load_beton
from sslortho.data.broken_images import handle_broken
from sslortho.data.image_folder import scan_folder
from sslortho.data.tar_shards import load_shards

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "growth.py"


def call(*arguments):
    """The benchmark in a process of its own, which has used no threads when it forks."""
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=250
    )


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_a_power_law_has_its_exponent(exponent):
    costs = {size: 3e-6 * size**exponent for size in (1_000, 10_000, 100_000)}
    assert fit_exponent(costs) == pytest.approx(exponent, abs=1e-9)
    assert predict(costs, 10_000_000) == pytest.approx(3e-6 * 1e7**exponent)
    assert predict(costs, 1_000) == costs[1_000]


def test_what_does_not_grow_does_not_hide_what_does():
    costs = {size: 1 + 1e-9 * size**2 for size in (10, 100, 10**5, 10**6)}
    assert fit_exponent(costs) == pytest.approx(2, abs=0.1)


def test_costs_of_nothing_have_no_exponent():
    assert fit_exponent({10: 0.0, 100: 0.0}) is None
    assert fit_exponent({10: 1.0}) is None
    assert predict({10: 0.0, 100: 0.0}, 1_000) == 0
    assert predict({10: 1.0}, 1_000) is None
    rows = {10: {"seconds": 1.0, "peak_bytes": 0}}
    part = {"what": "work", "unit": "images", "target": 1_000, "rows": rows}
    assert "| - | - | 1k (fitted) | - | 0 |" in describe_parts({"parts": {"a": part}})


@pytest.mark.parametrize(("exponent", "beyond"), [(1.0, False), (1.1, False), (1.5, True)])
def test_a_cost_beyond_linear_is_told(exponent, beyond):
    rows = {size: {"seconds": size**exponent, "peak_bytes": 10 * size} for size in (10, 100, 1_000)}
    assert describe(rows, 10_000) == {
        "exponent": pytest.approx(exponent),
        "memory_exponent": pytest.approx(1),
        "seconds": pytest.approx(10_000**exponent),
        "peak_bytes": pytest.approx(100_000),
        "largest": 1_000,
        "fitted": True,
        "beyond_linear": beyond,
    }
    part = {"what": "work", "unit": "images", "target": 1_000, "rows": rows}
    table = describe_parts({"parts": {"a": part}})
    assert ("Time grows more than linearly: a." in table) is beyond
    assert "(fitted)" not in table
    assert "(fitted)" in describe_parts({"parts": {"a": {**part, "target": 5_000}}})


def test_made_up_images_are_data_sets_that_take_little_of_the_disk(tmp_path):
    count = made_up.A_CLASS + 20
    files = scan_folder(made_up.make_folder(tmp_path, count), "train")
    assert len(files) == count
    assert files.labels.unique(return_counts=True)[1].tolist() == [made_up.A_CLASS, 20]
    beton = load_beton(made_up.make_beton(tmp_path, count), "train")
    assert len(beton) == count
    pages = np.bincount(beton.pages)
    assert pages.max() == made_up.PAGE // (made_up.RAW_SIDE**2 * 3)
    shards = load_shards(made_up.make_shards(tmp_path, 30))
    assert len(shards) == 30
    for images in (files, beton, shards):
        kept, sizes = handle_broken(images, "train", None)
        assert len(kept) == len(images) == len(sizes)
        assert images.open(len(images) - 1).ndim == 3
    blocks = sum({s.st_ino: s.st_blocks for s in map(_stat, tmp_path.rglob("*"))}.values())
    assert blocks * 512 < 3e6


def _stat(path):
    return path.stat()


def test_an_interrupted_folder_is_made_again(tmp_path):
    made_up.make_folder(tmp_path, 50)
    folder = tmp_path / "folder_50"
    (folder / ".complete").unlink()
    next((folder / "train").rglob("*_7.jpg")).unlink()
    assert len(scan_folder(made_up.make_folder(tmp_path, 50), "train")) == 50


def _allocate(size, place):
    def work():
        block = np.ones(size, np.uint8)
        (place / f"done_{size}").write_text(str(block.sum()))

    return work


@pytest.mark.parametrize("ranks", [1, 2])
def test_memory_is_what_the_work_takes(tmp_path, ranks):
    part = Part("allocate", "bytes", _allocate, (), (), 0, ranks)
    found = measure(part, 64 << 20, tmp_path, 2)
    assert 64 << 20 <= found["peak_bytes"] < 80 << 20
    assert len(found["rounds"]) == 2
    assert (tmp_path / f"done_{64 << 20}").read_text() == str(64 << 20)
    assert math.isfinite(found["seconds"])


def test_a_fault_in_a_part_is_told(tmp_path):
    def fail(size, place):
        raise ValueError("no such data")

    with pytest.raises(RuntimeError, match="ValueError: no such data"):
        measure(Part("fail", "images", fail, (), (), 0), 1, tmp_path, 1)


@pytest.mark.slow
def test_table_json_and_picture_and_a_second_call_goes_on(tmp_path):
    arguments = ["--quick", "--most", "1000", "--out", tmp_path / "out", "--parts"]
    assert call(*arguments, "folder_list").returncode == 0
    first = json.loads((tmp_path / "out/growth.json").read_text())["parts"]["folder_list"]
    names = "folder_list,folder_start,beton_start,shards_start,knn_4_ranks,probe,checkpoint_save"
    done = call(*arguments, names)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out/growth.json").read_text())
    assert list(report["parts"]) == names.split(",")
    assert report["parts"]["folder_list"] == first
    assert "folder_list: 1000 images" in done.stderr
    assert done.stderr.count("(measured before)") == 1
    for name in report["parts"]:
        assert f"| {name}: " in done.stdout
    assert (tmp_path / "out/growth.md").read_text().strip() in done.stdout
    assert matplotlib.image.imread(tmp_path / "out/growth.png").shape[0] > 100


@pytest.mark.slow
def test_an_unknown_part_is_named(tmp_path):
    done = call("--parts", "folder_lisst", "--out", tmp_path)
    assert done.returncode == 2
    assert "'folder_lisst' is not one of folder_list, " in done.stderr
