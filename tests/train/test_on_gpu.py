"""Training on a GPU: half precision, the same bits twice and after a stop, NCCL with one rank."""

import copy
import socket

import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from helpers.gpu import DEVICE, on_gpu
from helpers.matrices import nearest_orthonormal, well_conditioned
from helpers.trainings import drift, same_bits, train
from torch import nn

from sslortho.losses import BarlowTwinsLoss
from sslortho.losses.gather import _GatherBatch, _GatherParts, _MeanOverRanks
from sslortho.models import convert_sync_batch_norm
from sslortho.optim import orthonormalise_
from sslortho.optim.polar_factor import Matrices
from sslortho.optim.sharing import gradients_agree, solve_shared
from sslortho.train.records import read_metrics

LONG = {"epochs": 3, "evaluate_every": 1}


@pytest.fixture(autouse=True)
def fresh_process():
    """Accelerate keeps what the first Accelerator of a process was told."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.use_deterministic_algorithms(False)
    if dist.is_initialized():
        dist.destroy_process_group()


@on_gpu
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("optim", ["sgd", "orth_sgd"])
def test_the_loss_falls_in_any_precision(precision, optim, tmp_path):
    if precision == "fp16" and DEVICE.type == "cpu":
        pytest.skip("fp16 needs a GPU, also in a rehearsal")
    options = {"epochs": 6, "optim": optim, "lr": 0.02, "mixed_precision": precision}
    digits = {"backbone": "basic_cnn", "crop_size": 16, "subset": 100, "batch_size": 20}
    found = train(tmp_path, supervised=True, **digits, **options)
    losses = [record["loss"] for record in read_metrics(tmp_path / "metrics.jsonl")]
    assert found["step"] == 30
    assert all(torch.isfinite(torch.tensor(losses)))
    assert losses[-1] < 0.7 * losses[0]
    for value in found["state"].values():
        assert value.isfinite().all()
        assert value.dtype in (torch.float32, torch.int64)


@on_gpu
def test_stopped_and_resumed_ends_with_the_bits_of_an_unbroken_run(tmp_path):
    options = {**LONG, "deterministic": True}
    unbroken = train(tmp_path / "unbroken", **options)
    train(tmp_path / "stopped", **options, stopped=True)
    resumed = train(tmp_path / "stopped", **options)
    assert resumed["step"] == unbroken["step"] == 15
    assert same_bits(resumed, unbroken)


@on_gpu
def test_graphs_change_nothing_but_rounding(tmp_path, monkeypatch):
    if DEVICE.type == "cpu":  # in a rehearsal the same calls, without graphs
        monkeypatch.setattr("sslortho.train.launch.check_graphs", lambda accelerator: None)
        usual = torch.nn.Module.compile
        monkeypatch.setattr(
            torch.nn.Module, "compile", lambda task, mode: usual(task, backend="eager")
        )
    options = {"optim": "lars", "mixed_precision": "no"}
    plain = train(tmp_path / "plain", **options)
    graphs = train(tmp_path / "graphs", cuda_graphs=True, **options)
    assert drift(graphs, plain) < 0.1


@on_gpu
def test_a_training_is_that_of_a_cpu_but_for_rounding(tmp_path):
    ours = train(tmp_path / "ours", optim="lars")
    for side in ("start", "end"):
        ours[side] = [value.cpu() for value in ours[side]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        theirs = train(tmp_path / "theirs", optim="lars")
    theirs = {**theirs, **{side: [v.cpu() for v in theirs[side]] for side in ("start", "end")}}
    assert drift(ours, theirs) < 0.1  # bf16 has 0.27: tests/recipes/test_equivalence.py


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


@on_gpu
def test_a_rank_of_nccl_alone_trains_as_without(tmp_path, monkeypatch):
    alone = train(tmp_path / "alone", optim="lars")
    variables = {
        "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ranked = train(tmp_path / "ranked", optim="lars")
    if DEVICE.type == "cuda":
        assert dist.get_backend() == "nccl"
    assert drift(ranked, alone) < 0.02


@on_gpu
def test_what_ranks_exchange_goes_through_nccl(tmp_path):
    backend = "nccl" if DEVICE.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path}/r", rank=0, world_size=1)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(32, 8, generator=generator).to(DEVICE) for _ in range(2))
    losses = [BarlowTwinsLoss(gather_distributed=g)(a, b) for g in (True, False)]
    torch.testing.assert_close(*losses)
    shared, own = (nn.Parameter(torch.zeros(8, 32, device=DEVICE)) for _ in range(2))
    shared.grad, own.grad = a.mT.clone(), a.mT.clone()
    orthonormalise_(shared, share=True)
    orthonormalise_(own)
    torch.testing.assert_close(shared.grad, own.grad, rtol=0, atol=1e-6)
    norm = nn.Sequential(nn.BatchNorm1d(8)).to(DEVICE)
    synced = convert_sync_batch_norm(copy.deepcopy(norm), DEVICE)
    torch.testing.assert_close(synced(a), norm(a), rtol=1e-5, atol=1e-5)
    # a rank that is alone takes none of the collectives above: these are what is below them
    for function in (_GatherBatch, _GatherParts, _MeanOverRanks):
        local = a.clone().requires_grad_()
        whole = function.apply(local)
        (whole * b).sum().backward()
        torch.testing.assert_close(whole, a)
        torch.testing.assert_close(local.grad, b)
    matrix = well_conditioned(8, 32, seed=0).float().to(DEVICE)
    problem = Matrices(matrix[None].clone(), torch.empty_like(matrix[None]))
    assert gradients_agree([problem])
    solve_shared([problem])
    expected = nearest_orthonormal(matrix.cpu()[None])
    torch.testing.assert_close(problem.out.cpu().double(), expected, rtol=0, atol=2e-3)
