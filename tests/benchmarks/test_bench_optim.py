"""bench_optim.py, on a network small enough for a test."""

import functools
import json

import matplotlib.image
import pytest
import torch
from helpers.script_runs import call_script

from optim_bench import measures, methods

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
    assert {"SVD, one by one", "Muon, float32", "Muon, batched", "Newton-Schulz", "ours"} <= set(
        methods
    )
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


def test_a_method_that_is_far_slower_is_run_once(monkeypatch, capsys):
    clock, runs = [0.0], {}
    seconds = {measures.BASELINE: 1.0, "half": 0.5, "slow": 30.0, "ours": 0.1}

    def method(name, parameters):
        clock[0] += seconds[name]
        runs[name] = runs.get(name, 0) + 1

    methods = {name: functools.partial(method, name) for name in seconds}
    monkeypatch.setattr(measures, "find_methods", lambda device: methods)
    monkeypatch.setattr(measures.time, "perf_counter", lambda: clock[0])
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    figures, results = measures.run_rounds([parameter], [torch.ones(2, 2)], 3, torch.device("cpu"))
    assert runs == {
        measures.BASELINE: 4,
        "half": 4,
        "slow": 1,
        "ours": 4,
    }  # the median takes 0.75 s
    assert [name for name, found in figures.items() if found["stopped"]] == ["slow"]
    assert figures["slow"]["seconds"] == pytest.approx(30)
    assert figures["slow"]["ratio"] == pytest.approx(1 / 30)
    assert figures["ours"]["ratio"] == pytest.approx(10)
    assert set(results) == set(seconds)
    assert "slow: 30.0 s, run once alone" in capsys.readouterr().err


def test_an_unknown_network_is_an_error(tmp_path):
    done = bench(tmp_path, "--models", "resnet51")
    assert done.returncode == 2
    assert "resnet51" in done.stderr
    assert not (tmp_path / "bench_optim.json").exists()


def test_matrices_in_batches_are_those_one_by_one():
    """Tall, wide and square ones, of a convolution and a linear layer; two of one shape when turned."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 4, 3, 3), (36, 8), (5, 5), (8, 36), (3, 2)]
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    gradients = [torch.randn(shape, generator=generator) for shape in shapes]

    def apply(method):
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient.clone()
        method(parameters)
        return [p.grad for p in parameters]

    def factor(matrices):
        u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
        return u @ vh

    for ours, theirs in zip(
        apply(functools.partial(methods.replace_in_batches, solve=factor)),
        apply(methods.replace_by_svd),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    for batched, single in zip(
        apply(methods.replace_in_batches),
        apply(functools.partial(methods.replace_by_muon, dtype=torch.bfloat16)),
        strict=True,
    ):
        torch.testing.assert_close(batched, single, rtol=0, atol=0.05)
