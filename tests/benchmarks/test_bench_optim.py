"""bench_optim.py, on a network small enough for a test."""

import functools
import json

import matplotlib.image
import pytest
import torch
from helpers.script_runs import call_script

from optim_bench import methods, rounds
from optim_bench.options import BenchOptimOptions

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
    seconds = {rounds.BASELINE: 3.0, "half": 1.9, "slow": 2.1, "ours": 0.1}

    def method(name, parameters):
        clock[0] += seconds[name]
        runs[name] = runs.get(name, 0) + 1

    calls = {name: functools.partial(method, name) for name in seconds}
    monkeypatch.setattr(rounds.time, "perf_counter", lambda: clock[0])
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    figures, results = rounds.run_rounds(
        calls, [parameter], [torch.ones(2, 2)], 3, torch.device("cpu")
    )
    # slower than 20 times 0.1 s; what the others are compared with always takes its turns
    assert runs == {rounds.BASELINE: 4, "half": 4, "slow": 1, "ours": 4}
    assert [name for name, found in figures.items() if found["stopped"]] == ["slow"]
    assert figures["slow"]["seconds"] == pytest.approx(2.1)
    assert figures["slow"]["core_seconds"] is None
    assert figures["slow"]["ratio"] == pytest.approx(3 / 2.1)
    assert figures["ours"]["ratio"] == pytest.approx(30)
    assert set(results) == set(seconds)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "ready" in line] == [
        f"{name}: ready, {took:.1f} s ({i} of 4)"
        for i, (name, took) in enumerate(seconds.items(), 1)
    ]
    why = "1 round: the fastest is more than 20 times as fast"
    assert [line for line in lines if "finished" in line] == [
        f"slow: 2.100 s, {why} (1 of 4 finished)",
        f"{rounds.BASELINE}: 3.000 s, 3 rounds (2 of 4 finished)",
        "half: 1.900 s, 3 rounds (3 of 4 finished)",
        "ours: 0.100 s, 3 rounds (4 of 4 finished)",
    ]


def test_quick_changes_what_was_not_given():
    quick = BenchOptimOptions(quick=True)
    assert (quick.names, quick.training_steps, quick.turns, quick.side) == ("resnet18", 2, 1, 64)
    given = {"models": "resnet50", "steps": 0, "rounds": 7, "image_size": 96}
    quick = BenchOptimOptions(quick=True, **given)
    assert (quick.names, quick.training_steps, quick.turns, quick.side) == ("resnet50", 0, 7, 96)


@pytest.mark.slow
def test_quick_leaves_out_bfloat16_on_a_cpu(tmp_path):
    name = "shufflenet_v2_x0_5"
    done = bench(tmp_path, "--quick", "--models", name, "--device", "cpu", "--errors", "false")
    report = json.loads((tmp_path / "bench_optim.json").read_text())
    assert report["quick"]
    assert set(report["models"][name]["methods"]) == set(methods.METHODS) - set(methods.BFLOAT16)
    for line in ("gradients", "training steps"):
        assert f"{name}: {line}" in done.stderr


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
