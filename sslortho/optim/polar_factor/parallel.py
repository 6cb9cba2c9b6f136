"""Independent pieces of work on the CPU's threads, one thread each.

A decomposition of a small matrix hardly gains from threads inside it; whole matrices side by side gain
in full. As each piece runs on one thread, its result does not depend on the number of threads.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from sslortho.optim.never_compiled import never_compiled

_pool: ThreadPoolExecutor | None = None
_size = 0


def _forget_pool() -> None:
    global _pool
    _pool = None  # a forked process has none of its parent's threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _start_pool(size: int) -> ThreadPoolExecutor:
    """Start a pool of `size` threads that use one core each; return when all of them run."""
    before = torch.get_num_threads()
    started = threading.Barrier(size + 1)

    def prepare() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # torch fixes a thread's number when it is first read
        started.wait()

    pool = ThreadPoolExecutor(size, thread_name_prefix="sslortho", initializer=prepare)
    try:
        for _ in range(size):
            pool.submit(int)
        started.wait()
    except BaseException:
        started.abort()  # threads that started must not wait for one that did not
        pool.shutdown(wait=False)
        raise
    finally:
        torch.set_num_threads(before)  # threads that start later take the number set last
    return pool


@never_compiled
def run_on_threads(pieces: Sequence[Callable[[], None]]) -> None:
    """Run all pieces in their order, as many at once as torch uses threads, gradients off.

    Raises the error of the first piece that failed, once all have ended.
    """
    global _pool, _size
    size = torch.get_num_threads()
    if size == 1 or len(pieces) == 1:
        with torch.no_grad():
            for piece in pieces:
                piece()
        return
    if _pool is None or _size != size:
        if _pool is not None:
            _pool.shutdown()
        _pool, _size = _start_pool(size), size
    inference = torch.is_inference_mode_enabled()

    def run(piece: Callable[[], None]) -> None:
        with torch.inference_mode(inference), torch.no_grad():  # modes belong to a thread
            piece()

    futures = [_pool.submit(run, piece) for piece in pieces]
    for future in futures:
        future.exception()  # wait for all, so that nothing is written after an error
    for future in futures:
        future.result()
