"""The Barlow Twins loss in 60 digits, with its gradient."""

import numpy as np
import torch
from mpmath import mp, mpf, sqrt

DIGITS = 60


def _standardise(z: np.ndarray, eps: mpf) -> tuple[np.ndarray, np.ndarray]:
    centred = z - z.sum(axis=0) / len(z)
    scale = np.array([1 / sqrt(v + eps) for v in (centred * centred).sum(axis=0) / len(z)])
    return centred * scale, scale


def _pull_back(gradient: np.ndarray, standardised: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Gradient with respect to what was standardised (arXiv 1502.03167, section 3)."""
    n = len(gradient)
    along = (gradient * standardised).sum(axis=0) / n
    return scale * (gradient - gradient.sum(axis=0) / n - standardised * along)


def exact_loss(
    z_a: torch.Tensor, z_b: torch.Tensor, weight: float
) -> tuple[mpf, tuple[np.ndarray, np.ndarray]]:
    """The loss of facebookresearch/barlowtwins with eps 1e-5, and its gradients (batch, dim).

    The numbers are taken as they are given, whatever their precision.
    """
    with mp.workdps(DIGITS):
        a, b = (
            np.array([[mpf(x) for x in row] for row in z.detach().double().tolist()])
            for z in (z_a, z_b)
        )
        (a, scale_a), (b, scale_b) = (_standardise(z, mpf(1) / 100_000) for z in (a, b))
        n, dim = a.shape
        c = a.T.dot(b) / n
        weights = np.full((dim, dim), mpf(weight))
        np.fill_diagonal(weights, mpf(1))
        difference = c - np.eye(dim, dtype=int)
        to_c = 2 * weights * difference / n
        return (weights * difference * difference).sum(), (
            _pull_back(b.dot(to_c.T), a, scale_a),
            _pull_back(a.dot(to_c), b, scale_b),
        )


def relative_errors(
    value: torch.Tensor, gradients: tuple[torch.Tensor, ...], exact: tuple
) -> tuple[float, float]:
    """Distance of a loss and of its gradients from the exact ones, relative to their size."""
    with mp.workdps(DIGITS):
        true_value, true_gradients = exact
        error, size = mpf(0), mpf(0)
        for ours, true in zip(gradients, true_gradients, strict=True):
            found = np.array([[mpf(x) for x in row] for row in ours.double().tolist()])
            error += ((found - true) ** 2).sum()
            size += (true**2).sum()
        return (
            float(abs(mpf(value.double().item()) - true_value) / true_value),
            float(sqrt(error / size)),
        )
