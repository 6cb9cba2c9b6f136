"""Figures of two views of the same images: how close they are, and how far images are apart."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from sslortho.evaluate.features import check_features


def _unit(features: Tensor) -> Tensor:
    """Rows (n, dim) of length 1, float64; a row of zeros stays zero."""
    check_features(features)
    return functional.normalize(features.double(), dim=1, eps=1e-300)


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance of the two views of an image on the unit sphere: 0 (the same) to 4.

    Alignment with exponent 2 (arXiv 2005.10242, section 4.1).

    Args:
        first, second: features (n, dim) of two views of the same n images, in one order.

    Raises ValueError for other shapes.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"features of shapes {tuple(first.shape)} and {tuple(second.shape)} differ"
        )
    return float((_unit(first) - _unit(second)).square().sum(dim=1).mean())


def uniformity(features: Tensor) -> float:
    """Logarithm of the mean Gaussian potential of all pairs: 0 (one point) down to about -4 (uniform).

    Uniformity with t = 2 (arXiv 2005.10242, section 4.1).

    Args:
        features: (n, dim) of n different images; nan for one image, which has no pairs.

    Raises ValueError for another shape.
    """
    unit = _unit(features)
    if len(unit) < 2:
        return math.nan
    squared = torch.pdist(unit).square()
    return float(torch.logsumexp(-2 * squared, dim=0)) - math.log(len(squared))
