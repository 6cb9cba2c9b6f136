"""Agreement of two views of the same images: a measure that needs no labels."""

import torch
from torch import Tensor

from sslortho.evaluate.neighbours import NeighbourSearch


def neighbour_agreement(first: Tensor, second: Tensor) -> float:
    """Percentage of images whose nearest neighbour among all second views is their own.

    Chance is 100 / n, which features that have collapsed reach too: among equal neighbours the first
    counts. Features that know a photograph whatever its crop and colours come near 100.

    Args:
        first, second: features (n, dim) of two views of the same n images, in one order.

    Raises ValueError for other shapes, and for features that are not finite.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"features of shapes {tuple(first.shape)} and {tuple(second.shape)} differ"
        )
    search = NeighbourSearch(first, k=1)
    search.add(second)
    _, nearest = search.result(gather_distributed=False)
    own = torch.arange(len(first), device=nearest.device)
    return 100 * float((nearest[:, 0] == own).double().mean())
