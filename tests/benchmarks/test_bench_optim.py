"""bench_optim.py, on a network small enough for a test."""

import json

import matplotlib.image
import pytest
from helpers.script_runs import call_script

SMALL = ["--rounds", "2", "--steps", "1", "--image_size", "64", "--batch_size", "2"]


def bench(out, *arguments):
    return call_script("bench_optim", *SMALL, "--out", out, *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("gradients", ["real", "random", "spectrum"])
def test_table_json_and_picture(tmp_path, gradients):
    name = "shufflenet_v2_x0_5"
    printed = bench(tmp_path, "--models", name, "--gradients", gradients).stdout
    report = json.loads((tmp_path / "bench_optim.json").read_text())
    methods = report["models"][name]["methods"]
    assert {"SVD, one by one", "Muon, float32", "Newton-Schulz", "ours"} <= set(methods)
    for method, figures in methods.items():
        assert f"| {method} |" in printed
        assert figures["seconds"] >= figures["fastest"] > 0
        assert figures["ratio"] > 0
    assert methods["SVD, one by one"]["ratio"] == 1
    exact = {"real": 0.01, "random": 1e-3, "spectrum": 0.01}[gradients]
    assert methods["ours"]["worst_error"] < exact
    assert methods["Muon, float32"]["worst_error"] > 0.1
    step = report["models"][name]["step"]
    assert 0 < step["orth_lars_share"] < 1
    assert matplotlib.image.imread(tmp_path / "bench_optim.png").shape[0] > 100


def test_an_unknown_network_is_an_error(tmp_path):
    done = bench(tmp_path, "--models", "resnet51")
    assert done.returncode == 2
    assert "resnet51" in done.stderr
    assert not (tmp_path / "bench_optim.json").exists()
