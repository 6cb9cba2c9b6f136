"""A function on several gloo processes of this machine's CPU."""

import datetime
import inspect
import multiprocessing
import runpy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

TIMEOUT = 120.0  # seconds
PRELOAD = ["sslortho.losses", "sslortho.models"]


def _run_rank(
    rank: int, world_size: int, folder: Path, file: str, name: str, arguments: tuple
) -> None:
    torch.set_num_threads(1)
    # from its file: the name that pytest imports a test module by means nothing in another process
    function = runpy.run_path(file)[name]
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world_size,
        timeout=datetime.timedelta(seconds=TIMEOUT),
    )
    torch.save(function(rank, *arguments), folder / f"{rank}.pt")
    # a rank that leaves early takes the connection from those that still talk
    dist.barrier()
    dist.destroy_process_group()


def run_on_ranks(
    function: Callable[..., Any],
    world_size: int,
    folder: Path,
    *arguments: Any,
    timeout: float = TIMEOUT,
) -> list[Any]:
    """Results of `function(rank, *arguments)` on `world_size` processes of one thread each.

    Args:
        function: at the top level of its file; its result is of tensors and plain containers.
        folder: empty, for the rendezvous and the results (pytest's tmp_path).
        timeout: seconds until the ranks are killed.

    Raises:
        torch.multiprocessing.ProcessRaisedException: with the traceback of the rank that failed;
            the others are ended.
        TimeoutError: not all ranks came back.
    """
    # a clean server that has imported these, and torch, once forks the ranks: 0.5 s, not 3 s
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOAD)
    context = torch.multiprocessing.start_processes(
        _run_rank,
        args=(world_size, folder, inspect.getfile(function), function.__name__, arguments),
        nprocs=world_size,
        join=False,
        start_method="forkserver",
    )
    deadline = time.monotonic() + timeout
    try:
        while not context.join(timeout=max(deadline - time.monotonic(), 0)):
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{world_size} ranks did not come back in {timeout} s")
    finally:
        for process in context.processes:
            process.kill()
            process.join()
        for path in context.error_files:  # torch leaves them in the temporary folder
            Path(path).unlink(missing_ok=True)
    return [torch.load(folder / f"{rank}.pt") for rank in range(world_size)]
