"""Products of float32 matrices in float32, whatever the process is set to.

The polar factor and the weights of a resampling need it: TensorFloat-32 and bfloat16 have too few digits
for a Gram matrix, or for the last grey level of a pixel.
"""

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
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


@functools.cache  # once a process
def _warn_of_tuned_kernels() -> None:
    warnings.warn(
        "PYTORCH_TUNABLEOP_ENABLED=1 stays in force where float32 products must be exact; a kernel that "
        "was tuned in another precision may then spoil an orthonormalisation. Unset it, or call "
        "torch.cuda.tunable.enable() instead, which is switched off there",
        stacklevel=2,
    )


@contextlib.contextmanager
def _no_tuned_kernels() -> Iterator[None]:
    """Switch TunableOp off, whose choice of a kernel may be of another precision."""
    tunable = torch.cuda.tunable
    if not tunable.is_enabled():
        yield
        return
    tunable.enable(False)
    if tunable.is_enabled():  # the environment variable is stronger than the call
        _warn_of_tuned_kernels()
    try:
        yield
    finally:
        tunable.enable(True)


class _Switch:
    """A switch of the process, thrown by the first that needs it and restored by the last."""

    def __init__(self, throw: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self.throw = throw
        self.lock = threading.Lock()
        self.users = 0
        self.restore = contextlib.ExitStack()

    @contextlib.contextmanager
    def thrown(self) -> Iterator[None]:
        """Throw it while the block runs."""
        with self.lock:
            if not self.users:
                self.restore.enter_context(self.throw())
            self.users += 1
        try:
            yield
        finally:
            with self.lock:
                self.users -= 1
                if not self.users:
                    self.restore.close()


_precision, _tuning = _Switch(_highest_precision), _Switch(_no_tuned_kernels)


@contextlib.contextmanager
def ieee_float32(device_types: Iterable[str]) -> Iterator[None]:
    """Switch off autocast, TensorFloat-32 and bfloat16 for products of float32 matrices.

    `torch.set_float32_matmul_precision("high")` is common in training code. With the 11 bits that
    it leaves, a Gram matrix loses every direction below 2 % of the largest. The setting belongs to the
    process: products of other threads are exact too meanwhile. Compiled code cannot enter it. TunableOp is
    off on a GPU; where PYTORCH_TUNABLEOP_ENABLED=1 keeps it on, a warning says so.

    Args:
        device_types: "cpu", "cuda", ...; the devices whose autocast is switched off.
    """
    device_types = set(device_types)
    with contextlib.ExitStack() as stack:
        for device_type in device_types:
            stack.enter_context(torch.autocast(device_type, enabled=False))
        stack.enter_context(_precision.thrown())
        if "cuda" in device_types:
            stack.enter_context(_tuning.thrown())
        yield
