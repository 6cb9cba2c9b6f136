"""speedrun.py: its table, and both kinds of entrants at toy size."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import speedrun
from json_lines import read_lines
from speedrun_parts import entrants
from speedrun_parts.records import (
    check_same_config,
    check_same_settings,
    digest_config,
    write_table,
)
from sslortho.runs.provenance import machine


def record(entrant, factor, seed, seconds, accuracy, **others):
    return {
        "entrant": entrant, "factor": factor, "seed": seed, "seconds": seconds, "images": 100,
        "knn_top1": accuracy, "machine": {"cpu": "a CPU", "cores": 2},
        "settings": {"network": "resnet20", "threads": 2},
        "finished": "2026-12-01T10:00:00+00:00", **others,
    }  # fmt: skip


def test_the_table_compares_the_first_lengths_that_reach_the_target():
    records = [
        record("ours", 1.0, 0, 600.0, 50.0),
        record("ours", 1.0, 1, 600.0, 52.0),
        record("lightly, simclr", 1.0, 0, 600.0, 40.0),
        record("lightly, simclr", 2.0, 0, 1200.0, 49.0),
        record("lightly, simclr", 2.0, 1, 1200.0, 51.0),
        record("lightly, barlow_twins", 1.0, 0, 600.0, 45.0),
    ]
    lines = write_table(records, 50.0).splitlines()
    assert lines[2] == "| ours | 100 | 10.0 | 51.0 +- 1.0 (50.0, 52.0) | 2 |"
    assert "| lightly, simclr | 100 | 20.0 | 50.0 +- 1.0 (49.0, 51.0) | 2 |" in lines
    assert "- ours: 50 % in 10.0 minutes, 2 of 3 seeds." in lines
    assert "- lightly, simclr: 50 % in 20.0 minutes, 1.0 to 2.0 times ours, 2 of 3 seeds." in lines
    assert (
        "- lightly, barlow_twins: 50 % was not reached in 1.0 times our time (1 of 3 seeds)."
        in lines
    )
    assert lines[-1] == "a CPU, 2 cores; 2026-12-01 to 2026-12-01."


def test_the_mean_over_seeds_must_reach_the_target():
    records = [record("ours", 1.0, seed, 60.0, 50.0 + seed) for seed in (0, -1, 0)]
    assert "- ours: 50 % was not reached." in write_table(records, 50.0)
    records[1]["knn_top1"] = 50.0
    assert "- ours: 50 % in 1.0 minutes." in write_table(records, 50.0)


def test_records_of_other_settings_or_processors_are_refused():
    here = machine()
    known = record("ours", 1.0, 0, 60.0, 50.0, machine=here)
    check_same_settings([known], known["settings"])
    with pytest.raises(ValueError, match=r"ours has .*'threads': 2.*, not .*'threads': 1"):
        check_same_settings([known], {"network": "resnet20", "threads": 1})
    for name, value in (("cpu", "a CPU"), ("cpu_capability", "NONE"), ("cores", 640)):
        other = record("ours", 1.0, 0, 60.0, 50.0, machine={**here, name: value})
        with pytest.raises(ValueError, match="another processor"):
            check_same_settings([other], known["settings"])


def test_records_of_another_configuration_are_refused(tmp_path):
    config = tmp_path / "fast.yaml"
    config.write_text("lr: 1.0\nepochs: 2\n")
    known = record("ours", 1.0, 0, 60.0, 50.0, config_digest=digest_config(config))
    config.write_text("# why\nepochs: 2\nlr: 1.0\n")
    check_same_config([known], config)
    config.write_text("lr: 2.0\nepochs: 2\n")
    with pytest.raises(ValueError, match="seed 0 is of another configuration"):
        check_same_config([known], config)
    check_same_config([record("lightly, simclr", 1.0, 0, 60.0, 50.0)], config)


@pytest.mark.parametrize("method", ["simclr", "barlow_twins"])
def test_views_are_those_of_lightlys_cifar_10_benchmark(method):
    """Its colour jitter: 0.8 times a strength of 0.5 for SimCLR, BYOL's 0.4; only BYOL's second solarises."""
    pair = entrants._create_views(method).transforms
    brightness, solarisation = [], []
    for view in pair:
        parts = view.transform.transforms
        jitter = next(p for p in parts if type(p).__name__ == "RandomApply").transforms[0]
        brightness.append(jitter.brightness)
        solarisation.append([p.prob for p in parts if type(p).__name__ == "RandomSolarization"])
    assert [tuple(found) for found in brightness] == [(0.6, 1.4)] * 2
    assert solarisation == ([[], []] if method == "simclr" else [[0.0], [0.2]])


def write_images(folder: Path, classes: int, each: int) -> None:
    """Images of noise around a colour of their class."""
    generator = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for i in range(each):
            pixels = generator.integers(80 * label, 80 * label + 90, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{i}.jpg")


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["speedrun.py", *map(str, arguments)])
    speedrun.main()


@pytest.mark.slow
def test_both_kinds_of_entrants_are_timed_and_judged(tmp_path, monkeypatch, capsys):
    write_images(tmp_path / "cifar" / "train", 2, 20)
    write_images(tmp_path / "cifar" / "test", 2, 5)
    config = tmp_path / "toy.yaml"
    config.write_text(
        "data: folder\nbackbone: basic_cnn\nprojector: 8-8\nbatch_size: 10\nepochs: 2\n"
        "warmup_epochs: 0\nlr: 1\nlinear_probe: false\n"
    )
    records, threads = tmp_path / "records.jsonl", torch.get_num_threads()
    common = [
        "--cifar", tmp_path / "cifar", "--records", records, "--work", tmp_path / "work",
        "--threads", 1,
    ]  # fmt: skip
    with pytest.raises(SystemExit, match=r"run `speedrun\.py ours` first"):
        call(monkeypatch, "lightly", *common)
    call(monkeypatch, "ours", *common, "--config", config, "--seeds", 0, "--network", "basic_cnn")
    monkeypatch.setattr(entrants, "TIMED", 2)
    lightly = [
        "--methods",
        "simclr",
        "barlow_twins",
        "--factors",
        1,
        "--network",
        "basic_cnn",
        "--batch_size",
        8,
    ]
    try:
        call(monkeypatch, "lightly", *common, *lightly, "--seeds", 0)
        found = read_lines(records)
        call(monkeypatch, "lightly", *common, *lightly, "--seeds", 0)  # nothing is run again
    finally:
        torch.set_num_threads(threads)
    assert read_lines(records) == found
    assert [r["entrant"] for r in found] == [
        "ours",
        "lightly, simclr, batch 8",
        "lightly, barlow_twins, batch 8",
    ]
    assert found[0]["images"] == 80
    for entry in found:
        assert entry["seconds"] > 0
        assert 0 <= entry["knn_top1"] <= 100
    assert str(tmp_path) not in json.dumps(found)
    assert "| lightly, simclr, batch 8 |" in capsys.readouterr().out
