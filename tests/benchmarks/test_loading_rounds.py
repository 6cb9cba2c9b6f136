"""bench_loading.py: its rounds, its options, and pipelines whose packages are missing."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

import bench_loading
from loading_bench import registry, results, rounds
from loading_bench.options import BenchLoadingOptions
from loading_bench.results import compute_ratio


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self):
        self.now = 0.0
        self.runs = {}

    def pipeline(self, name, seconds):
        """Something that takes so long, and gives 10 pairs."""

        def run():
            self.now += seconds
            self.runs[name] = self.runs.get(name, 0) + 1
            return 10

        return SimpleNamespace(run=run)


def run_on_clock(monkeypatch, seconds, epochs, bounds=()):
    """Figures, and how often each pipeline ran, if each takes so many seconds a round."""
    clock = Clock()
    monkeypatch.setattr(rounds.time, "perf_counter", lambda: clock.now)
    pipelines = {name: clock.pipeline(name, took) for name, took in seconds.items()}
    return rounds.run_rounds(pipelines, epochs, 1, bounds), clock.runs


def test_a_pipeline_that_is_far_slower_than_the_fastest_is_timed_once(monkeypatch, capsys):
    seconds = {"a": 1.0, "b": 2.0, "slow": 20.5, "floor": 0.01, "just": 20.0}
    timings, runs = run_on_clock(monkeypatch, seconds, 4, bounds=("floor",))
    assert runs == {"a": 5, "b": 5, "slow": 2, "floor": 5, "just": 5}
    assert {name: len(timing.rates) for name, timing in timings.items()} == {
        "a": 4, "b": 4, "slow": 1, "floor": 4, "just": 4
    }  # fmt: skip
    assert timings["slow"].rates == pytest.approx([10 / 20.5])
    assert timings["slow"].warm_up == pytest.approx(20.5)
    rates = {name: timing.rates for name, timing in timings.items()}
    assert compute_ratio(rates, "a", "slow") == pytest.approx(20.5)
    lines = capsys.readouterr().err.splitlines()
    assert (
        "slow: 0.5 pairs/s, 1 round: the fastest is more than 20 times as fast (1 of 5 finished)"
        in (lines)
    )
    assert [line.split(":")[0] for line in lines if "ready" in line] == list(seconds)
    finished = [line.split(":")[0] for line in lines if "finished" in line]
    assert finished == ["slow", "a", "b", "floor", "just"]
    assert "just: 0.5 pairs/s, 4 rounds (5 of 5 finished)" in lines
    assert "round 3 of 4: done" in lines


def test_bounds_alone_are_compared_with_each_other(monkeypatch):
    seconds = {"floor": 0.1, "parts": 3.0}
    _, runs = run_on_clock(monkeypatch, seconds, 3, bounds=("floor", "parts"))
    assert runs == {"floor": 4, "parts": 2}


def test_one_round_is_one_line_a_pipeline(monkeypatch, capsys):
    run_on_clock(monkeypatch, {"a": 0.01, "slow": 9.0}, 1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines if "finished" in line] == ["a", "slow"]


def test_processor_time_of_started_processes_counts():
    pytest.importorskip("psutil")
    before = rounds.read_core_seconds()
    code = "import time\nwhile time.process_time() < 0.6: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert rounds.read_core_seconds() - before > 0.5


def test_what_is_missing_is_skipped_with_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    registry.find_missing.cache_clear()
    try:
        left, skipped = registry.split_missing(registry.PIPELINES)
    finally:
        registry.find_missing.cache_clear()
    assert set(skipped) == {
        "lightly", "kornia", "albumentationsx", "webdataset", "litdata", "ffcv_stock", "dali", "spdl",
        "spdl_io", "ours_beton_ffcv",
    }  # fmt: skip
    assert {"torchvision_pil", "ours_beton", "ours_parts", "decode_floor"} <= set(left)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(skipped)
    assert "kornia is left out: pip install kornia" in printed
    assert "pip install spdl; pip install albumentationsx" in skipped["spdl"]
    assert "libturbojpeg" in skipped["ours_beton_ffcv"]


def test_a_module_in_a_package_that_is_missing_is_missing():
    assert not registry._is_there("no_such_package.part")
    assert not registry._is_there("json.no_such_part")
    assert registry._is_there("json.decoder")


def test_what_is_there_but_does_not_work_is_missing(monkeypatch):
    def refuse():
        raise ValueError("no FFCV")

    monkeypatch.setattr(registry, "find_spec", lambda name: "found")
    monkeypatch.setattr(registry, "require_ffcv", refuse)
    monkeypatch.setattr(registry, "distributions", lambda name: iter(()))  # another albumentations
    registry.find_missing.cache_clear()
    try:
        for package in ("ffcv", "albumentationsx"):
            assert registry.find_missing(package) == registry.INSTALL[package]
        assert registry.find_missing("webdataset") is None
    finally:
        registry.find_missing.cache_clear()


def test_quick_reads_fewer_images_in_fewer_rounds_unless_told():
    for small in (False, True):
        usual, quick = (
            BenchLoadingOptions(data_dir="D", small=small, quick=q) for q in (False, True)
        )
        assert quick.image_count < usual.image_count
        assert quick.samples < usual.samples
        assert quick.rounds < usual.rounds
        assert quick.view_size == usual.view_size
    told = BenchLoadingOptions(data_dir="D", quick=True, images=9, batch_size=3, epochs=7)
    assert (told.image_count, told.samples, told.rounds) == (9, 3, 7)


def test_cores_are_those_of_this_process(monkeypatch):
    kept = []
    monkeypatch.setattr(bench_loading.os, "sched_getaffinity", lambda _: {5, 3, 4}, raising=False)
    monkeypatch.setattr(
        bench_loading.os, "sched_setaffinity", lambda _, cores: kept.append(cores), raising=False
    )
    with bench_loading.kept_to_cores(None):
        assert kept == []
    with bench_loading.kept_to_cores(2):
        assert kept == [[3, 4]]
    assert kept == [[3, 4], {3, 4, 5}]
    with (
        pytest.raises(ValueError, match="cores=4 must be at most the 3 cores"),
        bench_loading.kept_to_cores(4),
    ):
        pass


def test_the_best_peer_is_no_bound_and_does_all_of_the_work():
    rates = {
        "ours_beton": [9.0],
        "decode_floor": [8.0],
        "ffcv_stock": [7.0],
        "a": [3, 4, 5],
        "b": [2],
    }
    assert results.find_best_peer(rates) == "a"
    assert results.find_best_peer({"ours_beton": [9.0]}) is None
