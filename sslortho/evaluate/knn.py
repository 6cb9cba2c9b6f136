"""Weighted nearest neighbours on normalised features (arXiv 1805.01978, section 3.4)."""

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 1024  # queries at a time, so that the similarities of a large bank fit


@torch.no_grad()
def knn_predict(
    bank: Tensor, labels: Tensor, queries: Tensor, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Class of each query by a vote of its k nearest neighbours, weighted exp(cosine / temperature).

    Args:
        bank: (n, dim) features with `labels` (n,), int64 from 0.
        queries: (m, dim).
        k: neighbours; all of the bank where it holds fewer.
        temperature: above 0.

    Returns:
        int64 (m,).
    """
    if k < 1 or not temperature > 0:
        raise ValueError(f"k={k} must be 1 or more and temperature={temperature} above 0")
    bank = functional.normalize(bank, dim=1)
    classes = int(labels.max()) + 1
    predictions = []
    for chunk in functional.normalize(queries, dim=1).split(CHUNK):
        similarity, index = (chunk @ bank.mT).topk(min(k, len(bank)), dim=1)
        # relative to the nearest, so that a low temperature does not overflow; the vote is the same
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        votes = weights.new_zeros(len(chunk), classes)
        predictions.append(votes.scatter_add_(1, labels[index], weights).argmax(dim=1))
    return torch.cat(predictions)
