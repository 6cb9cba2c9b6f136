"""Projections of features onto the plane: PCA, UMAP and t-SNE."""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

CHUNK = 8192
"""Rows made float64 at a time, so that no second copy of all features is needed."""


def project_pca(features: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates along the two directions of largest variance, the same at every call.

    They are eigenvectors of the smaller of scatter matrix (dim, dim) and Gram matrix (n, n), in
    float64: squaring the singular values loses digits only of directions far below the largest.
    `torch.svd_lowrank` draws random numbers, and is least accurate if variances fall off slowly, as
    those of good features do. 50,000 features of 2,048 dimensions take half a tera-operation.

    Args:
        features: (n, dim), n of 1 or more.

    Returns:
        points: float64 (n, 2), centred; each direction's largest loading (by magnitude) is positive.
        shares: float64 (2,), of the variance, from 0 to 1; 0 if features have no such direction.

    Raises:
        ValueError: no features, or features that are not finite.
    """
    n, dim = features.shape
    if n < 1 or dim < 1 or not torch.isfinite(features).all():
        raise ValueError(f"features of shape {(n, dim)} must be at least one, all finite")
    chunks = features.split(CHUNK)
    mean = torch.stack([chunk.double().sum(dim=0) for chunk in chunks]).sum(dim=0) / n
    if n < dim:
        centred = features.double() - mean
        values, vectors = torch.linalg.eigh(centred @ centred.mT)
        scores = vectors * values.clamp_min(0).sqrt()
        loadings = centred.mT @ vectors[:, -2:]
    else:
        scatter = mean.new_zeros(dim, dim)
        for centred in (chunk.double() - mean for chunk in chunks):
            scatter += centred.mT @ centred
        values, vectors = torch.linalg.eigh(scatter)
        loadings = vectors[:, -2:]
        scores = torch.cat([(chunk.double() - mean) @ loadings for chunk in chunks])
    points, shares = scores.new_zeros(n, 2), values.new_zeros(2)
    for i in range(min(2, len(values))):
        if values[-1 - i] <= max(n, dim) * torch.finfo(values.dtype).eps * values[-1]:
            break  # rounding noise only
        loading = loadings[:, -1 - i]
        points[:, i] = scores[:, -1 - i] * loading[loading.abs().argmax()].sign()
        shares[i] = values[-1 - i] / values.sum()
    return points, shares


def project_umap(
    features: Tensor, seed: int, most_points: int = 4000
) -> tuple[Tensor, Tensor] | None:
    """UMAP (arXiv 1802.03426) by cosine, the measure of kNN.

    Args:
        features: (n, dim).
        seed: of the layout, and of the choice of points if there are more than `most_points`.
        most_points: points of the map, at most.

    Returns:
        points: float32 (m, 2), m at most `most_points`.
        indices: int64 (m,), ascending, the features of these points.
        None for fewer than 3 features, and without umap-learn (the extra `umap`).
    """
    if len(features) < 3:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of absent extras, and of a seed that forbids threads
        try:
            from umap import UMAP  # pyright: ignore # it takes seconds, hence here
        except ImportError:
            return None
        indices = _choose_points(len(features), seed, most_points)
        # its spectral start needs more points than it has neighbours and dimensions
        start = "spectral" if len(indices) > 15 else "random"
        model = UMAP(metric="cosine", random_state=seed, init=start, n_jobs=1)
        points = model.fit_transform(features.cpu()[indices].float().numpy())
    return torch.from_numpy(np.asarray(points, dtype=np.float32)), indices


def _choose_points(count: int, seed: int, most_points: int) -> Tensor:
    chosen = np.random.default_rng(seed).permutation(count)[:most_points]
    return torch.from_numpy(np.sort(chosen))


def project_tsne(
    features: Tensor, seed: int, most_points: int = 4000, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """t-SNE (van der Maaten and Hinton, JMLR 2008) of scikit-learn, by cosine.

    Perplexity is scikit-learn's 30, or a third of the neighbours that few points have.

    Args:
        features: (n, dim), n of 3 or more.
        seed, most_points: as for `project_umap`.
        start: (n, 2), places to begin from, where no points are left out; they are made small first, as
            scikit-learn makes those of its PCA. Default: drawn by seed.

    Returns:
        points float32 (m, 2) and indices int64 (m,), as `project_umap`.

    Raises ValueError for fewer than 3 features.
    """
    if len(features) < 3:
        raise ValueError(f"{len(features)} features are too few for t-SNE; give 3 or more")
    from sklearn.manifold import TSNE

    indices = _choose_points(len(features), seed, most_points)
    perplexity = min(30.0, (len(indices) - 1) / 3)
    init: Any = "random"
    if start is not None:
        init = (1e-4 * start / start[:, 0].std().clamp_min(1e-12)).float().cpu().numpy()
    model = TSNE(metric="cosine", init=init, perplexity=perplexity, random_state=seed)
    points = model.fit_transform(features[indices].cpu().float().numpy())
    return torch.from_numpy(np.asarray(points, dtype=np.float32)), indices
