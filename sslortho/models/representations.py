"""How alike the channels of intermediary representations are (arXiv 2202.07052, section 4.2)."""

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
    """Mean absolute cosine of all distinct pairs of channels, of maps (batch, channels, *size).

    The mean of |<x_i, x_j>| over i < j (the R_l of arXiv 2202.07052, section 4.2), and over the
    batch; a scalar. A map that is zero has cosine 0 with every other. In float32 at least, with the
    precision that the process has set for products of matrices.
    """
    with torch.autocast(maps.device.type, enabled=False):
        rows = maps.flatten(2).to(torch.promote_types(maps.dtype, torch.float32))
        rows = functional.normalize(rows, dim=-1, eps=1e-8)  # as torch's cosine_similarity
        cosines = (rows @ rows.mT).abs_()
        cosines.diagonal(dim1=-2, dim2=-1).zero_()
        channels = maps.shape[1]
        return cosines.sum(dim=(-2, -1)).mean() / (channels * (channels - 1))


def _has_pairs(output: Any, dimensions: int) -> bool:
    """Whether an output is (batch, channels, *size) with two channels and two pixels at least."""
    return (
        isinstance(output, Tensor)
        and output.is_floating_point()
        and output.ndim == dimensions
        and len(output) > 0
        and output.shape[1] > 1
        and output.shape[2:].numel() > 1
    )


class Representations:
    """What `watch_representations` has seen: of each layer one scalar, on the model's device."""

    def __init__(self, samples: int, learning_only: bool) -> None:
        if samples < 1:
            raise ValueError(f"samples={samples} must be 1 or more")
        self.samples = samples
        self.learning_only = learning_only
        self.measured: dict[str, Tensor] = {}

    def see(self, name: str, dimensions: int, module: nn.Module, inputs: Any, output: Any) -> None:
        """Hook: measure a module's output, unless it was called before or has nothing to compare."""
        if name in self.measured or not _has_pairs(output, dimensions):
            return
        if output.requires_grad or not self.learning_only:
            # at once: what follows may work in place
            self.measured[name] = channel_cosine(output.detach()[: self.samples])

    def cosines(self) -> dict[str, float]:
        """Mean absolute cosine by the name of the module; waits for the device once."""
        if not self.measured:
            return {}
        device = next(iter(self.measured.values())).device
        values = [value.to(device, torch.float32) for value in self.measured.values()]
        return dict(zip(self.measured, torch.stack(values).tolist(), strict=True))


def _watched_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module, int]]:
    """(name, module, dimensions of its output) of convolutions and of activations."""
    for name, module in model.named_modules():
        name = name.replace("_orig_mod.", "")  # what torch.compile puts around a module
        if isinstance(module, _ConvNd):
            yield name, module, len(module.kernel_size) + 2
        elif isinstance(module, ACTIVATIONS):
            yield name, module, 4


def _uncompiled() -> contextlib.AbstractContextManager[Any]:
    """Compiled modules run as they are written; compiled code passes by hooks that came later."""
    # slow to import; not imported, nothing is compiled
    loaded = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if loaded else contextlib.nullcontext()


@contextlib.contextmanager
def watch_representations(
    model: nn.Module, samples: int = 10, *, learning_only: bool = False
) -> Iterator[Representations]:
    """Measure how alike the channels of each layer's output are, in what runs within.

        with watch_representations(model) as watched:
            model(images)
        watched.cosines()  # {"layer1.0.conv1": 0.31, ...}

    The outputs are those of convolutions, (batch, channels, *size), before norm and activation, and
    those (batch, channels, height, width) of activations that are modules (`ACTIVATIONS`), which
    the paper's figure 8 shows. Outputs of one channel or one pixel have nothing to compare and are
    left out, and so are dense layers. Of a module that is called more than once, the first call.

    Hooks are there only within. What torch.compile has compiled runs uncompiled within.

    Args:
        model: any; nothing that it computes changes.
        samples: first images of the batch that are measured; the paper's authors take ten.
        learning_only: leave out outputs that no gradient reaches, such as a frozen backbone's.

    Raises:
        ValueError: `samples` is less than 1.
    """
    watched = Representations(samples, learning_only)
    with contextlib.ExitStack() as stack:
        for name, module, dimensions in _watched_modules(model):
            hook = partial(watched.see, name, dimensions)
            stack.callback(module.register_forward_hook(hook).remove)
        stack.enter_context(_uncompiled())
        yield watched
