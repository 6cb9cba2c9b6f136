"""Products of float32 matrices in float32, whatever the process is set to."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def ieee_float32() -> Iterator[None]:
    """No TensorFloat-32 and no bfloat16 in products of float32 matrices.

    `torch.set_float32_matmul_precision("high")` is common in training code. With the 11 bits that
    it leaves, a Gram matrix loses every direction below 2 % of the largest. The setting is the
    process's: not for use on several threads at once. Inside a compiled region it stays as it is;
    leave it at "highest" there.
    """
    if torch.compiler.is_compiling():
        yield
        return
    modules = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    if all(hasattr(module, "fp32_precision") for module in modules):  # since torch 2.9
        before = [module.fp32_precision for module in modules]  # pyright: ignore[reportOptionalMemberAccess]
        set_ = zip(modules, before, strict=True)
        for module in modules:
            module.fp32_precision = "ieee"  # pyright: ignore[reportOptionalMemberAccess]
        try:
            yield
        finally:
            for module, value in set_:
                module.fp32_precision = value  # pyright: ignore[reportOptionalMemberAccess]
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
