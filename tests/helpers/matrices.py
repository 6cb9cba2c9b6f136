"""Matrices of known singular values, and the nearest orthonormal matrix by numpy in float64."""

import numpy as np
import torch
from torch import Tensor


def nearest_orthonormal(matrices: Tensor, rank_tol: float = 0.0) -> Tensor:
    """`U V^T` of each of (..., rows, columns), without singular values up to rank_tol * largest."""
    u, s, vt = np.linalg.svd(matrices.detach().double().numpy(), full_matrices=False)
    kept = s > rank_tol * s[..., :1]
    return torch.from_numpy((u * kept[..., None, :]) @ vt)


def random_orthogonal(size: int, seed: int) -> Tensor:
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    return torch.from_numpy(q * np.sign(np.diag(r)))


def with_singular_values(rows: int, columns: int, values: list[float], seed: int = 0) -> Tensor:
    """A random float64 matrix (rows, columns) of these singular values."""
    diagonal = torch.zeros(rows, columns, dtype=torch.float64)
    diagonal.diagonal().copy_(torch.tensor(values, dtype=torch.float64))
    return random_orthogonal(rows, seed) @ diagonal @ random_orthogonal(columns, seed + 1)


def well_conditioned(*shape: int, seed: int = 0) -> Tensor:
    """Random float64 matrices (..., rows, columns) with singular values between 1 and 1/20."""
    *batch, rows, columns = shape
    values = np.geomspace(1, 0.05, min(rows, columns)).tolist()
    count = int(np.prod(batch, dtype=int))
    stack = [with_singular_values(rows, columns, values, seed + 2 * i) for i in range(count)]
    return torch.stack(stack).reshape(shape)
