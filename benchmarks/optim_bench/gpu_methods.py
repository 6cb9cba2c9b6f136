"""Methods that need a GPU: torch's Muon as it is, Muon captured as a CUDA graph, Dion's kernels."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from .methods import METHODS, replace_in_batches, replace_one_by_one

Method = Callable[[list[nn.Parameter]], None]


class Captured:
    """Batched Muon replayed as one CUDA graph over gradients at fixed addresses.

    The first call captures. Later calls copy the gradients in, replay, and copy the result out, which is
    part of their time: a training's gradients lie elsewhere at each step, unless its owner sees to it.
    """

    def __init__(self) -> None:
        self.graph: torch.cuda.CUDAGraph | None = None
        self.static: list[nn.Parameter] = []

    def __call__(self, parameters: list[nn.Parameter]) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.graph is None or len(self.static) != len(gradients):
            self._capture(gradients)
        assert self.graph is not None
        held = [p.grad for p in self.static if p.grad is not None]
        torch._foreach_copy_(held, gradients)  # pyright: ignore[reportPrivateImportUsage]
        self.graph.replay()
        torch._foreach_copy_(gradients, held)  # pyright: ignore[reportPrivateImportUsage]

    def _capture(self, gradients: list[Tensor]) -> None:
        self.static = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
        for p, gradient in zip(self.static, gradients, strict=True):
            p.grad = gradient.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # the libraries set themselves up outside the capture
            replace_in_batches(self.static)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            replace_in_batches(self.static)


def replace_by_torch(parameters: list[nn.Parameter]) -> None:
    """Call the function of torch.optim.Muon itself, with its default settings, for each matrix."""
    solve = import_module("torch.optim._muon")._zeropower_via_newtonschulz
    defaults = (3.4445, -4.775, 2.0315), 5, 1e-7
    replace_one_by_one(parameters, lambda matrix: solve(matrix, *defaults))


def find_methods(device: torch.device) -> dict[str, Method]:
    """All methods that can run on the device. Dion's is among them where its package is installed:
    `pip install git+https://github.com/microsoft/dion`."""
    found: dict[str, Method] = dict(METHODS)
    if device.type != "cuda":
        return found
    if find_spec("torch.optim._muon"):  # from torch 2.9 on
        found["torch.optim.Muon"] = replace_by_torch
    found["Muon, batched, captured"] = Captured()
    if find_spec("dion") and find_spec("triton"):
        dion = import_module("dion.newton_schulz_triton")
        found["Dion, batched, Triton"] = lambda parameters: replace_in_batches(
            parameters, dion.newton_schulz_triton
        )
    return found
