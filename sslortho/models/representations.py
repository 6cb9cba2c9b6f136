"""Similarity of the channels of intermediate representations (arXiv 2202.07052, section 4.2)."""

import contextlib
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

ACTIVATIONS = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,  # ReLU6 too
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.PReLU,
    nn.ReLU,
    nn.RReLU,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
    nn.Threshold,
)


@torch.no_grad()
def channel_cosine(maps: Tensor) -> Tensor:
    """Mean absolute cosine between the channels of maps (batch, channels, *size), a scalar.

    The mean of |<x_i, x_j>| over all pairs i < j and over the batch (R_l of arXiv 2202.07052, section
    4.2). A map that is zero has cosine 0 with every other. Computed in float32 or wider, at the
    process's precision of matrix products.
    """
    with torch.autocast(maps.device.type, enabled=False):
        rows = maps.flatten(2).to(torch.promote_types(maps.dtype, torch.float32))
        rows = functional.normalize(rows, dim=-1, eps=1e-8)  # as torch's cosine_similarity
        cosines = (rows @ rows.mT).abs_()
        cosines.diagonal(dim1=-2, dim2=-1).zero_()
        channels = maps.shape[1]
        return cosines.sum(dim=(-2, -1)).mean() / (channels * (channels - 1))


def _has_pairs(output: Any, dimensions: int) -> bool:
    """Tell whether an output is (batch, channels, *size) with two or more channels and pixels."""
    return (
        isinstance(output, Tensor)
        and output.is_floating_point()
        and output.ndim == dimensions
        and len(output) > 0
        and output.shape[1] > 1
        and output.shape[2:].numel() > 1
    )


class Representations:
    """Measurements of `watch_representations`: one scalar a layer, on the model's device."""

    def __init__(self, samples: int, learning_only: bool) -> None:
        if samples < 1:
            raise ValueError(f"samples={samples} must be 1 or more")
        self.samples = samples
        self.learning_only = learning_only
        self.measured: dict[str, Tensor] = {}

    def measure(
        self, name: str, dimensions: int, module: nn.Module, inputs: Any, output: Any
    ) -> None:
        """Measure a module's output at its first call; a forward hook, but for the first two arguments.

        Outputs that are not (batch, channels, *size) with `dimensions` dimensions are ignored.
        """
        if name in self.measured or not _has_pairs(output, dimensions):
            return
        if output.requires_grad or not self.learning_only:
            # at once, since the next layer may work in place
            self.measured[name] = channel_cosine(output.detach()[: self.samples])

    def cosines(self) -> dict[str, float]:
        """Mean absolute cosine by name of the module. Synchronises with the device once."""
        if not self.measured:
            return {}
        device = next(iter(self.measured.values())).device
        values = [value.to(device, torch.float32) for value in self.measured.values()]
        return dict(zip(self.measured, torch.stack(values).tolist(), strict=True))


def _watched_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module, int]]:
    """(name, module, dimensions of its output) of every convolution and activation."""
    for name, module in model.named_modules():
        name = name.replace("_orig_mod.", "")  # torch.compile's wrapper
        if isinstance(module, _ConvNd):
            yield name, module, len(module.kernel_size) + 2
        elif isinstance(module, ACTIVATIONS):
            yield name, module, 4


def _uncompiled() -> contextlib.AbstractContextManager[Any]:
    """Context in which compiled modules run eagerly: compiled code ignores hooks added later."""
    # If dynamo, which is slow to import, is not imported, nothing is compiled.
    loaded = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if loaded else contextlib.nullcontext()


@contextlib.contextmanager
def watch_representations(
    model: nn.Module, samples: int = 10, *, learning_only: bool = False
) -> Iterator[Representations]:
    """Measure the similarity of the channels of each layer's output, for what runs inside the context.

        with watch_representations(model) as watched:
            model(images)
        watched.cosines()  # {"layer1.0.conv1": 0.31, ...}

    Measured are the outputs of convolutions, (batch, channels, *size), before norm and activation, and
    the outputs (batch, channels, height, width) of activation modules (`ACTIVATIONS`), which figure 8
    of arXiv 2202.07052 shows. Dense layers, and outputs with one channel or one pixel, are left out.
    If a module is called more than once, the first call counts.

    Forward hooks are removed at the end. Modules that torch.compile has compiled run eagerly inside.

    Args:
        model: any module; its results do not change.
        samples: number of images that are measured, the first of the batch; the paper's authors take 10.
        learning_only: leave out outputs that need no gradient, such as those of a frozen backbone.

    Raises:
        ValueError: `samples` is less than 1.
    """
    watched = Representations(samples, learning_only)
    with contextlib.ExitStack() as stack:
        for name, module, dimensions in _watched_modules(model):
            hook = partial(watched.measure, name, dimensions)
            stack.callback(module.register_forward_hook(hook).remove)
        stack.enter_context(_uncompiled())
        yield watched
