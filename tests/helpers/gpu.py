"""Tests for a GPU, which a machine without one can rehearse: then they run on its CPU.

SSLORTHO_REHEARSE_GPU=1 rehearses. It shows that the tests run, and nothing about a GPU.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CPU = torch.device("cpu")

# torch reads it when cuBLAS starts, which the first test here may do long before --deterministic
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def on_gpu(test: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a test that runs on DEVICE; tests/conftest.py skips it where that is no GPU."""
    return pytest.mark.gpu(rehearsable=True)(test)


@contextlib.contextmanager
def never_waits() -> Iterator[None]:
    """Raise RuntimeError where the host waits for the GPU inside; no effect on a CPU."""
    if DEVICE.type != "cuda":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
