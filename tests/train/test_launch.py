import datetime
import types

import pytest
import torch
from accelerate.state import AcceleratorState
from helpers.ranks import run_on_ranks
from torch import nn

from sslortho.methods.moco_v2 import Queue
from sslortho.models.sync_batch_norm import SyncBatchNorm
from sslortho.optim import OrthLARS
from sslortho.recipes.knn_eval.options import KnnEvalOptions
from sslortho.recipes.supervised.options import SupervisedOptions
from sslortho.train import launch


def test_a_tracker_that_is_not_installed_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="trackers='tensorboard,comet_ml': not all of them are"):
        launch.create_accelerator("no", "tensorboard,comet_ml", tmp_path)


def test_a_launcher_that_asks_for_another_precision_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ValueError, match="launcher asks for mixed_precision='bf16'"):
        launch.create_accelerator("no", "none", tmp_path)


def test_the_environment_does_not_divide_the_loss(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    accelerator = launch.create_accelerator("no", "none", tmp_path)
    AcceleratorState._reset_state(
        reset_partial_state=True
    )  # it keeps the precision of the first one
    assert accelerator.gradient_accumulation_steps == 1


def test_processes_that_do_not_know_of_each_other_are_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(
        launch, "Accelerator", lambda **_: type("Alone", (), {"num_processes": 1, "log_with": ()})
    )
    with pytest.raises(ValueError, match="started 2 processes, but this one sees 1"):
        launch.create_accelerator("no", "none", tmp_path)


@pytest.mark.parametrize(
    ("environment", "threads", "expected"),
    [
        ({}, None, 3),  # what torch had
        ({"ACCELERATE_MIXED_PRECISION": "no"}, None, 8),
        ({"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2"}, None, 4),
        ({"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "16"}, None, 1),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, 2, 2),
    ],
)
def test_a_launcher_does_not_leave_cores_idle(monkeypatch, environment, threads, expected):
    for name in ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as launchers do
    monkeypatch.setattr(launch.os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        launch.set_threads(threads)
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_deterministic_refuses_what_depends_on_the_order_of_threads(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # kept: the user's
    benchmark = torch.backends.cudnn.benchmark
    index = torch.tensor([0, 0])
    torch.zeros(3).put_(index, torch.ones(2))
    try:
        launch.make_deterministic()
        with pytest.raises(RuntimeError, match="put_ does not have a deterministic"):
            torch.zeros(3).put_(index, torch.ones(2))
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = benchmark


def test_ranks_wait_for_each_other_as_long_as_they_are_told(monkeypatch, tmp_path):
    given = {}

    def accelerator(**options):
        given.update(options)
        return type("One", (), {"num_processes": 1, "log_with": ()})

    monkeypatch.setattr(launch, "Accelerator", accelerator)
    launch.create_accelerator("no", "none", tmp_path, rank_timeout=7)
    (handler,) = given["kwargs_handlers"]
    assert handler.to_kwargs() == {"timeout": datetime.timedelta(seconds=7)}


def test_accelerates_launcher_that_starts_one_cpu_process_for_many_is_an_error(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ValueError, match="starts one alone; use torchrun"):
        launch.create_accelerator("no", "none", tmp_path)


@pytest.mark.parametrize(("restarts", "shared"), [("1", "False"), ("0", "True"), ("1", "True")])
def test_restarts_that_may_hang_are_warned_of(monkeypatch, restarts, shared, recwarn):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", restarts)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", shared)
    monkeypatch.setenv("RANK", "0")
    launch._check_launcher()
    said = [str(warning.message) for warning in recwarn.list]
    assert len(said) == (restarts == "1" and shared == "True")
    assert all("TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in text for text in said)


@pytest.mark.parametrize("plugin", ["fsdp", "deepspeed", "megatron_lm"])
def test_accelerates_own_ways_to_shard_are_refused(monkeypatch, plugin):
    monkeypatch.setenv(f"ACCELERATE_USE_{plugin.upper()}", "true")
    with pytest.raises(ValueError, match=f"--use_{plugin} is not for this command, whose --shard"):
        launch._check_launcher()


def test_evaluations_run_in_mixed_precision_on_a_gpu_alone():
    def autocast():
        return torch.autocast("cpu", torch.bfloat16)

    for device, expected in (("cpu", False), ("cuda", True)):
        accelerator = types.SimpleNamespace(device=torch.device(device), autocast=autocast)
        with launch.autocast_on_gpu(accelerator)():
            assert torch.is_autocast_enabled("cpu") is expected


def test_buffers_that_are_the_same_on_all_ranks_are_not_sent():
    synchronised = nn.Sequential(nn.Linear(4, 4), SyncBatchNorm(4))
    options = launch.data_parallel_options(synchronised).to_kwargs()
    assert options == {"gradient_as_bucket_view": True, "broadcast_buffers": False}
    for other in (nn.BatchNorm1d(4), Queue(6, 4)):
        kept = launch.data_parallel_options(nn.Sequential(synchronised, other))
        assert kept.broadcast_buffers


def train_on(rank: int, ours: bool) -> dict:
    """State after three steps, gradients added up over two batches each."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), SyncBatchNorm(8), nn.Flatten(), nn.Linear(32, 4))
    network.to(memory_format=torch.channels_last)
    options = launch.data_parallel_options(network).to_kwargs() if ours else {}
    parallel = nn.parallel.DistributedDataParallel(network, **options)
    optimizer = OrthLARS(network.parameters(), lr=1.0, orth_momentum=0.5)
    generator = torch.Generator().manual_seed(rank)
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        with parallel.no_sync():
            parallel(torch.randn(4, 3, 4, 4, generator=generator)).square().mean().backward()
        parallel(torch.randn(4, 3, 4, 4, generator=generator)).square().mean().backward()
        optimizer.step()
    return network.state_dict()


@pytest.mark.ranks
def test_they_change_no_bit(tmp_path):
    (tmp_path / "ours").mkdir()
    (tmp_path / "plain").mkdir()
    ours = run_on_ranks(train_on, 2, tmp_path / "ours", True)
    plain = run_on_ranks(train_on, 2, tmp_path / "plain", False)
    for state in (*ours, plain[1]):
        assert all(torch.equal(state[name], value) for name, value in plain[0].items())


@pytest.fixture
def torch_as_before():
    benchmark, products = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.backends.cudnn.benchmark = benchmark
    torch.set_float32_matmul_precision(products)


@pytest.mark.parametrize(
    ("cls", "options", "gpu", "expected"),
    [
        (SupervisedOptions, {}, True, True),
        (SupervisedOptions, {"deterministic": True}, True, False),
        (SupervisedOptions, {}, False, False),
        (KnnEvalOptions, {"backbone_from": "x.pt"}, True, False),  # the last batch is smaller
    ],
)
def test_cudnn_chooses_by_trial_in_trainings_on_a_gpu(
    cls, options, gpu, expected, monkeypatch, tmp_path, torch_as_before
):
    monkeypatch.setattr(launch, "create_accelerator", lambda *arguments: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    torch.backends.cudnn.benchmark = False
    launch.join_ranks(cls(threads=1, **options), tmp_path)
    assert torch.backends.cudnn.benchmark is expected


@pytest.mark.parametrize("precision", ["high", "medium", None])
def test_products_get_the_precision_that_is_asked_for(
    precision, monkeypatch, tmp_path, torch_as_before
):
    monkeypatch.setattr(launch, "create_accelerator", lambda *arguments: None)
    launch.join_ranks(SupervisedOptions(threads=1, matmul_precision=precision), tmp_path)
    assert torch.get_float32_matmul_precision() == (precision or "highest")


@pytest.mark.parametrize(
    ("device", "ranks", "refused"), [("cpu", 1, True), ("cuda", 2, True), ("cuda", 1, False)]
)
def test_graphs_are_for_one_process_on_a_gpu(monkeypatch, tmp_path, device, ranks, refused):
    found = types.SimpleNamespace(device=torch.device(device), num_processes=ranks)
    monkeypatch.setattr(launch, "create_accelerator", lambda *_: found)
    options = SupervisedOptions(epochs=1, cuda_graphs=True)
    if refused:
        with pytest.raises(
            ValueError, match=f"cuda_graphs=True .* this run has {ranks} on {device}"
        ):
            launch.join_ranks(options, tmp_path)
    else:
        assert launch.join_ranks(options, tmp_path) is found


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"compile": True}, "compile=True"),
        ({"shard": True}, "shard=True"),
        ({"accumulation_steps": 2, "batch_size": 4}, "accumulation_steps=2"),
    ],
)
def test_what_graphs_do_not_go_with_is_named(other, named):
    with pytest.raises(ValueError, match=named):
        SupervisedOptions(epochs=1, cuda_graphs=True, **other)
