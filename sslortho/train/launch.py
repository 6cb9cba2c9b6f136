"""This process among those that a launcher started: device, ranks and CPU threads."""

import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    ProjectConfiguration,
)
from torch import nn

from sslortho.data.loading import Shard
from sslortho.data.prefetch import share_of_cores
from sslortho.models.sync_batch_norm import SyncBatchNorm
from sslortho.train.options import LoopOptions, ProcessOptions


def set_threads(threads: int | None) -> None:
    """Set the CPU threads of torch in this process; None keeps torch's own number.

    `accelerate launch` and torchrun set OMP_NUM_THREADS=1, which leaves all cores but one idle when one
    process trains on a CPU. There None means this process's share of the cores.
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    one = os.environ.get("OMP_NUM_THREADS") == "1"
    if threads is None and launched and one and not torch.cuda.is_available():
        threads = share_of_cores()
    if threads is not None:
        torch.set_num_threads(threads)


def make_deterministic() -> None:
    """Let torch use only operations that give the same bits each time.

    On a CPU all operations used here do so anyway, for one number of threads. On a GPU it costs some
    speed; an operation without a deterministic form raises a RuntimeError that names it.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    torch.use_deterministic_algorithms(True)
    # filling new memory finds reads of what was never written; it costs a pass over each pinned batch
    settings: Any = torch.utils.deterministic
    settings.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False


def _check_launcher() -> None:
    """Check how this process was launched.

    Raises ValueError for a launcher that started one process where several were asked for. Warns of
    one whose restarts may hang.
    """
    environment = os.environ
    asked = "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment
    if asked and "WORLD_SIZE" not in environment:
        raise ValueError(
            "accelerate launch was asked for several CPU processes (or MASTER_ADDR is left over from "
            "elsewhere: unset it), but starts one alone; use torchrun --nproc_per_node N, or "
            "accelerate launch --multi_gpu, which does it for CPUs too"
        )
    for plugin in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if environment.get(f"ACCELERATE_USE_{plugin}", "false").lower() == "true":
            raise ValueError(
                f"accelerate launch --use_{plugin.lower()} is not for this command, whose --shard splits "
                "the training among the ranks (FSDP2); leave it out of the launcher and of its config file"
            )
    restarts = int(environment.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    shared = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if restarts > 0 and shared and environment.get("RANK") == "0":
        # https://github.com/pytorch/pytorch/issues/135712
        warnings.warn(
            "ranks that torchrun restarts may read the addresses of those before them, and wait for "
            "them; start it with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment (and without "
            "the static rendezvous)",
            stacklevel=3,
        )


def create_accelerator(
    mixed_precision: str, trackers: str, folder: Path, rank_timeout: float = 600
) -> Accelerator:
    """Create the Accelerator: device, ranks and trackers.

    Args:
        mixed_precision: "no", "fp16" or "bf16".
        trackers: comma-separated names of Accelerate's trackers, or "none".
        folder: of the run; its logs/ is for trackers that write files.
        rank_timeout: seconds that a rank waits for the others in any exchange before it gives up.

    Raises ValueError for fp16 without a GPU, for a tracker that is not installed, and if the launcher's
    number of processes and ours differ (each would train alone and believe itself the only one).
    """
    cuda = torch.cuda.is_available()
    if mixed_precision == "fp16" and not cuda:
        raise ValueError("mixed_precision='fp16' needs a GPU; on a CPU use 'bf16' or 'no'")
    launcher_precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launcher_precision not in ("no", mixed_precision):
        raise ValueError(
            f"the launcher asks for mixed_precision={launcher_precision!r}, the configuration for "
            f"{mixed_precision!r}; give --mixed_precision to the command"
        )
    _check_launcher()
    names: list[Any] = [name for name in trackers.split(",") if name and name != "none"]
    if unknown := set(names) - LOGGER_TYPE_TO_CLASS.keys():
        raise ValueError(
            f"trackers={trackers!r}: {min(unknown)!r} is not one of none, "
            f"{', '.join(LOGGER_TYPE_TO_CLASS)}"
        )
    accelerator = Accelerator(
        cpu=not cuda,
        mixed_precision=mixed_precision,
        # else the environment may ask for others, by which Accelerate would divide the loss
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        log_with=names or None,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=rank_timeout))],
        project_config=ProjectConfiguration(
            project_dir=str(folder), logging_dir=str(folder / "logs")
        ),
    )
    if len(accelerator.log_with) < len(names):
        raise ValueError(
            f"trackers={trackers!r}: not all of them are installed; pip install the missing one, or "
            "leave it out"
        )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise ValueError(
            f"the launcher started {launched} processes, but this one sees "
            f"{accelerator.num_processes}; for several CPU processes use "
            "torchrun --nproc_per_node N"
        )
    return accelerator


_joined = False
"""Whether this process has had a run."""


def _forget_earlier_run() -> None:
    """Let a process have one run after another.

    Accelerate's state is one for the whole process, and refuses another precision.

    Raises ValueError for one of several ranks: the end of its run has destroyed the process group, and
    another would be given the addresses of the first.
    """
    global _joined
    earlier, _joined = _joined, True
    if not earlier or (dist.is_available() and dist.is_initialized()):
        return  # an Accelerator of the caller's own stays
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "this process has had its run, and ranks that a launcher started have one each; start the "
            "next run by another command"
        )
    AcceleratorState._reset_state(reset_partial_state=True)


def precision_of_caller() -> str | None:
    """Precision of an Accelerator that the caller has made in this process, which no run can change."""
    if _joined or not AcceleratorState._shared_state:
        return None
    return AcceleratorState().mixed_precision


def join_ranks(
    options: ProcessOptions, folder: Path, mixed_precision: str = "no", trackers: str = "none"
) -> Accelerator:
    """Set this process up (threads, precision of products, deterministic operations) and find the others.

    Args:
        options: of the process.
        folder: of the run, for the trackers' files.
        mixed_precision: "no", "fp16" or "bf16".
        trackers: comma-separated, or "none".

    Raises ValueError as `create_accelerator` and `check_graphs`.
    """
    _forget_earlier_run()
    set_threads(options.threads)
    if options.deterministic:
        make_deterministic()
    elif isinstance(options, LoopOptions) and torch.cuda.is_available():
        # cuDNN times its algorithms once for each shape, and a training has few shapes
        torch.backends.cudnn.benchmark = True
    if options.matmul_precision is not None:
        torch.set_float32_matmul_precision(options.matmul_precision)
    accelerator = create_accelerator(mixed_precision, trackers, folder, options.rank_timeout)
    if isinstance(options, LoopOptions) and options.cuda_graphs:
        check_graphs(accelerator)
    return accelerator


def check_graphs(accelerator: Accelerator) -> None:
    """Raise ValueError unless a single process trains on a GPU."""
    device, ranks = accelerator.device.type, accelerator.num_processes
    if device != "cuda" or ranks > 1:
        raise ValueError(
            f"cuda_graphs=True needs one process on a CUDA GPU; this run has {ranks} on {device}; leave it "
            "out"
        )


def shard_of(accelerator: Accelerator) -> Shard:
    """Share of this process in every data set."""
    return Shard(accelerator.device, accelerator.process_index, accelerator.num_processes)


def autocast_on_gpu(accelerator: Accelerator) -> Callable[[], AbstractContextManager[Any]]:
    """Maker of the context of evaluations during training: mixed precision on a GPU, float32 on a CPU."""
    on_gpu = accelerator.device.type != "cpu"
    return (lambda: accelerator.autocast()) if on_gpu else nullcontext


def data_parallel_options(task: nn.Module) -> DistributedDataParallelKwargs:
    """Options of DistributedDataParallel that save memory and time, and change no bit.

    Gradients are views of what is sent. Buffers are sent at every step only if a module has some that may
    differ among the ranks; the statistics of synchronised batch norm do not.
    """
    same = (SyncBatchNorm, nn.SyncBatchNorm)
    differ = any(
        not isinstance(module, same) and any(True for _ in module.buffers(recurse=False))
        for module in task.modules()
    )
    return DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=differ)


def use_data_parallel_options(accelerator: Any, task: nn.Module) -> None:
    """Let an accelerator prepare a task with `data_parallel_options`."""
    accelerator.ddp_handler = data_parallel_options(task)
