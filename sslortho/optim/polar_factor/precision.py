"""Products of float32 matrices in float32, whatever the process is set to.

`polar` and `stacks.solve` work within `ieee_float32`: TensorFloat-32 and bfloat16 have too few digits
for a Gram matrix.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch


def _settings() -> list[tuple[Any, str]]:
    """(module, value) of CUDA's and oneDNN's settings; empty before torch 2.9, with one for both."""
    modules = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    if not all(hasattr(module, "fp32_precision") for module in modules):
        return []
    return [(module, module.fp32_precision) for module in modules]  # pyright: ignore[reportOptionalMemberAccess]


@contextlib.contextmanager
def _highest_precision() -> Iterator[None]:
    settings = _settings()
    whole = None if settings else torch.get_float32_matmul_precision()
    try:
        for module, _ in settings:
            module.fp32_precision = "ieee"
        if whole is not None:
            torch.set_float32_matmul_precision("highest")
        yield
    finally:
        for module, value in settings:
            module.fp32_precision = value
        if whole is not None:
            torch.set_float32_matmul_precision(whole)


@contextlib.contextmanager
def ieee_float32(device_types: Iterable[str]) -> Iterator[None]:
    """Switch off autocast, TensorFloat-32 and bfloat16 for products of float32 matrices.

    `torch.set_float32_matmul_precision("high")` is common in training code. With the 11 bits that
    it leaves, a Gram matrix loses every direction below 2 % of the largest. The setting belongs to the
    process: not for several threads at once, nor for compiled code.

    Args:
        device_types: "cpu", "cuda", ...; the devices whose autocast is switched off.
    """
    with contextlib.ExitStack() as stack:
        for device_type in device_types:
            stack.enter_context(torch.autocast(device_type, enabled=False))
        stack.enter_context(_highest_precision())
        yield
