"""Global random generators on the CPU, torch's, NumPy's and Python's: kept, and seeded for a while."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

NUMPY_SEEDS = 2**32
"""Seeds of NumPy's global generator are below it."""


@contextmanager
def kept_generators() -> Iterator[None]:
    """Restore the generators at the end. Those of a GPU are not touched."""
    ours, theirs, python = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        torch.default_generator.set_state(ours)
        np.random.set_state(theirs)  # noqa: NPY002
        random.setstate(python)


@contextmanager
def seeded_generators(seed: int) -> Iterator[None]:
    """Seed the generators (63 bits), and restore them at the end.

    Those of a GPU stay as they are: a network may draw from them meanwhile.
    """
    with kept_generators():
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % NUMPY_SEEDS)  # noqa: NPY002
        random.seed(seed)
        yield
