"""The projector of Barlow Twins (arXiv 2103.03230, section 4.1)."""

import itertools

from torch import nn


class Projector(nn.Sequential):
    """Linear, batch norm, ReLU for each width but the last, which is linear alone; no linear biases.

    Args:
        in_dim: features of the backbone.
        widths: output dimension of each linear layer, for example (8192, 8192, 8192); any number.

    Maps (batch, in_dim) to (batch, widths[-1]).
    """

    def __init__(self, in_dim: int, widths: tuple[int, ...]) -> None:
        if not widths or min(widths) < 1:
            raise ValueError(f"widths={widths!r} must be one or more positive integers")
        if in_dim < 1:
            raise ValueError(f"in_dim={in_dim} must be 1 or more, the features of the backbone")
        layers: list[nn.Module] = []
        dims = (in_dim, *widths)
        for before, after in itertools.pairwise(dims[:-1]):
            layers += [
                nn.Linear(before, after, bias=False),
                nn.BatchNorm1d(after),
                nn.ReLU(inplace=True),
            ]
        layers.append(nn.Linear(dims[-2], dims[-1], bias=False))
        super().__init__(*layers)
