"""Measures of collapse of a representation; they need no labels."""

import torch
from torch import Tensor
from torch.nn import functional

from sslortho.evaluate.features import check_features


def _check(features: Tensor) -> None:
    check_features(features)
    if not features.numel() or not torch.isfinite(features).all():
        raise ValueError(
            f"features of shape {tuple(features.shape)} must be at least one, all finite, to measure "
            "their spread"
        )


def rankme(features: Tensor) -> float:
    """Effective rank of features (n, dim): from 1 (collapsed) to min(n, dim).

    The exponential of the entropy of the normalised singular values (RankMe, arXiv 2210.02885,
    equation 1; its epsilon 1e-7). Raises ValueError for no features, and for non-finite ones.
    """
    _check(features)
    singular_values = torch.linalg.svdvals(features.double())
    p = singular_values / singular_values.sum().clamp_min(1e-300) + 1e-7
    return float(torch.exp(-(p * p.log()).sum()))


def feature_std(features: Tensor) -> float:
    """Standard deviation of L2-normalised features (n, dim), its mean over dimensions, times sqrt(dim).

    Near 1 if features spread over the sphere, 0 if they all coincide (arXiv 2011.10566, section 4.1).
    The scale of the features does not matter, however small; features of zero stay zero.
    Raises ValueError as `rankme`.
    """
    _check(features)
    normalised = functional.normalize(features.double(), dim=1, eps=1e-300)
    return float(normalised.std(dim=0, correction=0).mean() * features.shape[1] ** 0.5)
