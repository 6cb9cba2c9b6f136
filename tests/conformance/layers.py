"""Layers, and the matrices that their weights are by what the layer computes.

Rows are outputs, columns are what an output is computed from. Channels of one group do not meet those of
another, so each group is a matrix of its own; a depthwise filter is a group.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Split = Callable[[Tensor], list[Tensor]]
"""Weight, or gradient, to its matrices."""


def by_output(groups: int = 1) -> Split:
    """A convolution: each output pixel from the patch that it sees, (out/g, in/g * kernel)."""
    return lambda weight: [block.flatten(1) for block in weight.chunk(groups)]


def by_transposed_output(groups: int = 1) -> Split:
    """A transposed convolution by output channel, (out/g, in/g * kernel)."""
    return lambda weight: [block.transpose(0, 1).flatten(1) for block in weight.chunk(groups)]


def by_input_pixel(groups: int = 1) -> Split:
    """A transposed convolution as the map from an input pixel to the patch it writes.

    (out/g * kernel, in/g); the adjoint of a convolution's matrix.
    """
    return lambda weight: [block.flatten(1).mT for block in weight.chunk(groups)]


@dataclass(frozen=True)
class Case:
    """A layer, and the ways in which its weight may be read as matrices; each is right."""

    name: str
    layer: Callable[[], nn.Module]
    splits: tuple[Split, ...] = (by_output(),)


class LayerScale(nn.Module):
    """A gain of any shape, as ConvNeXt and CaiT hold them."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))


class Attention(nn.Module):
    """Self-attention in timm's form, of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 2
        self.qkv = nn.Linear(16, 48)
        self.proj = nn.Linear(16, 16)


MATRICES = (
    Case("dense", lambda: nn.Linear(20, 8)),
    Case("convolution", lambda: nn.Conv2d(4, 8, 3)),
    Case("grouped convolution", lambda: nn.Conv2d(8, 16, 3, groups=2), (by_output(2),)),
    Case("depthwise convolution", lambda: nn.Conv2d(12, 12, 3, groups=12), (by_output(12),)),
    Case(
        "transposed convolution",
        lambda: nn.ConvTranspose2d(6, 4, 3),
        (by_transposed_output(), by_input_pixel()),
    ),
    Case(
        "grouped transposed convolution",
        lambda: nn.ConvTranspose2d(12, 8, 3, groups=2),
        (by_transposed_output(2), by_input_pixel(2)),
    ),
    Case("1 x N convolution", lambda: nn.Conv2d(4, 8, (1, 5))),
    Case("N x 1 convolution", lambda: nn.Conv2d(4, 8, (5, 1))),
    Case("1 x 1 convolution", lambda: nn.Conv2d(24, 8, 1)),
    Case("1-D convolution", lambda: nn.Conv1d(6, 8, 5)),
    Case("3-D convolution", lambda: nn.Conv3d(2, 6, 3)),
)

TALL = (
    Case("tall", lambda: nn.Conv2d(2, 64, 3)),
    Case("wide", lambda: nn.Conv2d(16, 8, 3)),
    Case("1 x 5", lambda: nn.Conv2d(2, 40, (1, 5))),
    Case("5 x 1", lambda: nn.Conv2d(2, 40, (5, 1))),
    Case("1-D", lambda: nn.Conv1d(4, 40, 3)),
    Case("3-D", lambda: nn.Conv3d(1, 60, (1, 3, 5))),
)
"""Convolutions whose sides, read from the wrong dimensions, give another size of the update."""

VECTORS = {
    "LayerScale (C,)": (16,),
    "LayerScale (C, 1, 1)": (16, 1, 1),
    "LayerScale (1, C, 1, 1)": (1, 16, 1, 1),
    "class token (1, 1, D)": (1, 1, 16),
}


class Network(nn.Module):
    """A body with the layers under test, and a head."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.ModuleList(layers)
        self.head = nn.Linear(6, 5)


class Tied(nn.Module):
    """A language model's ends: a table that its head shares."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 16)
        self.body = nn.ModuleList([nn.Linear(16, 16)])
        self.head = nn.Linear(16, 12, bias=False)
        self.head.weight = self.embedding.weight
