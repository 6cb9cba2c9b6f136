"""Turns of the ranks of a machine when they load their data."""

import os
import time
from datetime import timedelta

import pytest
import torch
from helpers.ranks import run_on_ranks
from torch import distributed

from sslortho.train.loading_turns import load_in_turn

RANK_TIMEOUT = 10.0
"""Seconds that an exchange between the ranks may take."""


def load_slowly(rank: int) -> list[tuple[float, float]]:
    """Begin and end of two loadings, of which the first rank's takes longer than an exchange may."""
    from accelerate import Accelerator

    group = distributed.group.WORLD
    group._get_backend(torch.device("cpu"))._set_default_timeout(timedelta(seconds=RANK_TIMEOUT))
    os.environ.update(
        LOCAL_RANK=str(rank),
        RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="1",
    )
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    times = []
    for seconds in (RANK_TIMEOUT + 3, 0):
        with load_in_turn(accelerator):
            begin = time.time()
            time.sleep(seconds if rank == 0 else 0)
            times.append((begin, time.time()))
    return times


@pytest.mark.ranks
@pytest.mark.slow
def test_ranks_wait_for_the_first_one_longer_than_for_each_other(tmp_path):
    first, second = run_on_ranks(load_slowly, 2, tmp_path)
    for (_, end), (begin, _) in zip(first, second, strict=True):
        assert begin >= end
