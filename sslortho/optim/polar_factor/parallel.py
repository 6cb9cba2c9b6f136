"""Independent pieces of work on the CPU's threads, one thread each.

A decomposition of a small matrix hardly gains from threads inside it; whole matrices side by side
gain all there is. As each piece runs on one thread, its result does not depend on how many there are.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

_pool: ThreadPoolExecutor | None = None
_size = 0


def _forget_pool() -> None:
    global _pool
    _pool = None  # the threads stayed behind in the parent process


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _start_pool(size: int) -> ThreadPoolExecutor:
    """A pool of `size` running threads that use one core each."""
    before = torch.get_num_threads()
    started = threading.Barrier(size + 1)

    def prepare() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # torch fixes a thread's number at its first question
        started.wait()

    pool = ThreadPoolExecutor(size, thread_name_prefix="sslortho", initializer=prepare)
    try:
        for _ in range(size):
            pool.submit(int)
        started.wait()
    except BaseException:
        started.abort()  # those that did start must not wait for one that did not
        pool.shutdown(wait=False)
        raise
    finally:
        torch.set_num_threads(before)  # of threads that are yet to start: they take the last number
    return pool


@torch.compiler.disable()
def run_on_threads(pieces: Sequence[Callable[[], None]]) -> None:
    """Run every piece; the first ones first. Raises what the first that failed has raised.

    As many at once as torch uses threads; gradients are off in all of them.
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
        with torch.inference_mode(inference), torch.no_grad():  # modes are a thread's own
            piece()

    futures = [_pool.submit(run, piece) for piece in pieces]
    for future in futures:
        future.exception()  # wait for all, so that nothing is written after an error
    for future in futures:
        future.result()
