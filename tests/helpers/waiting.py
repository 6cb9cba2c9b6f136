"""Operations for which the host must wait for a GPU, counted on a CPU."""

import traceback

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
ALWAYS = {
    aten._local_scalar_dense.default,  # item(), float(), bool(), `if tensor:`
    aten.equal.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten._unique2.default,
    aten.unique_consecutive.default,
    aten.unique_dim.default,
}
"""Their results, or the shapes of these, depend on values."""

BY_MASK = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
"""Where an index is a mask, its entries are counted first."""


COPIES = {Tensor.cpu, Tensor.numpy, Tensor.tolist}
"""Methods that copy to the host. On a CPU they are no operation, so that only their call is seen."""


class _Copies(TorchFunctionMode):
    """Notes calls of `COPIES`."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in COPIES:
            self.found.append(_describe(func))
        return func(*args, **(kwargs or {}))


def _describe(func) -> str:
    """The operation, and the innermost line of the package that called it."""
    ours = [f for f in traceback.extract_stack() if "/sslortho/" in f.filename]
    return f"{func} at {ours[-1].filename}:{ours[-1].lineno}" if ours else str(func)


class Waits(TorchDispatchMode):
    """Note each operation that would make the host wait for a GPU, and the line that called it.

    Args:
        on_host: gives the tensors that are on the host in any case, such as Adam's number of steps.
    """

    def __init__(self, on_host=lambda: ()):
        super().__init__()
        self.on_host = on_host
        self.found: list[str] = []
        self.copies = _Copies(self.found)

    def __enter__(self):
        self.copies.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.copies.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self._waits(func, args, kwargs):
            self.found.append(_describe(func))
        return func(*args, **kwargs)

    def _waits(self, func, args, kwargs) -> bool:
        if func in BY_MASK:
            return any(index is not None and index.dtype == torch.bool for index in args[1])
        if func is aten.repeat_interleave.Tensor:
            return kwargs.get("output_size") is None
        return func in ALWAYS and not self._on_host(args[0])

    def _on_host(self, tensor: Tensor) -> bool:
        return any(tensor.data_ptr() == other.data_ptr() for other in self.on_host())
