"""Agreement of two views of the same images: measures that need no labels."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from sslortho.evaluate.neighbours import NeighbourSearch


def neighbour_agreement(first: Tensor, second: Tensor) -> float:
    """Percentage of images whose nearest neighbour among all second views is their own.

    Chance is 100 / n, which features that have collapsed reach too: among equal neighbours the first
    counts. Features that know a photograph whatever its crop and colours come near 100.

    Args:
        first, second: features (n, dim) of two views of the same n images, in one order.

    Raises ValueError for other shapes, and for features that are not finite.
    """
    _check(first, second)
    search = NeighbourSearch(first, k=1)
    search.add(second)
    _, nearest = search.result(gather_distributed=False)
    own = torch.arange(len(first), device=nearest.device)
    return 100 * float((nearest[:, 0] == own).double().mean())


def pair_ranking(first: Tensor, second: Tensor) -> float:
    """Percentage of (image, other image) whose own second view is nearer by cosine than the other's.

    It is the area under the ROC curve of each image's own view among all others, averaged: 50 by chance,
    and for features that have collapsed, since ties count half; 100 where every nearest neighbour is the
    own view. With few images it is far less noisy than `neighbour_agreement`.

    Args:
        first, second: as for `neighbour_agreement`; nan for one image, which has no other.

    Raises ValueError for other shapes, and for features that are not finite.
    """
    _check(first, second)
    if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
        raise ValueError("features that are not finite cannot be ranked")
    if len(first) < 2:
        return math.nan
    one, other = (functional.normalize(f.double(), dim=1, eps=1e-300) for f in (first, second))
    cosines = (one @ other.T).round(decimals=12)  # equal features tie whatever the rounding
    own = cosines.diagonal().unsqueeze(1)
    wins = (own > cosines).double() + 0.5 * (own == cosines).double()
    count = len(first)
    return 100 * float((wins.sum() - 0.5 * count) / (count * (count - 1)))


def _check(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(
            f"features of shapes {tuple(first.shape)} and {tuple(second.shape)} differ"
        )
