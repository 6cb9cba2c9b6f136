"""Turns in which the processes of a machine load their data."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator
from torch.distributed import distributed_c10d

from sslortho.data.broken_images import LONGEST_CHECK

_turns = itertools.count()


@contextmanager
def load_in_turn(accelerator: Accelerator) -> Iterator[None]:
    """Let the first process of each machine load before its others, which find what it has downloaded.

    The others first wait for the first of all ranks, for LONGEST_CHECK, through the store of the process group:
    it may decode all images (`data.broken_images`), and a barrier would give up after `rank_timeout`.
    Every rank must call.
    """
    if accelerator.num_processes == 1:
        yield
        return
    store = distributed_c10d._get_default_store()
    key = f"sslortho/loaded/{next(_turns)}"
    if not accelerator.is_local_main_process:
        store.wait([key], LONGEST_CHECK)
    with accelerator.local_main_process_first():
        try:
            yield
        finally:
            if accelerator.is_main_process:
                store.set(key, "done")
