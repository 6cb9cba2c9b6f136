"""The methods compared: each replaces the gradients of parameters by orthonormal ones, in place."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sslortho.optim import orthonormalise_
from sslortho.optim.polar_factor import LOWER_BOUND, TOLERANCE
from sslortho.optim.polar_factor.gram_iteration import apply_quintics
from sslortho.optim.polar_factor.polynomials import MUON_QUINTIC, newton_schulz_schedule


def replace_by_svd(parameters: list[nn.Parameter]) -> None:
    """Take `U V^T` of one SVD after another, as the paper's authors do."""
    for p in parameters:
        assert p.grad is not None
        u, _, vh = torch.linalg.svd(p.grad.reshape(len(p), -1), full_matrices=False)
        p.grad.copy_((u @ vh).view_as(p))


def replace_one_by_one(parameters: list[nn.Parameter], solve: Callable[[Tensor], Tensor]) -> None:
    """Apply `solve` to each gradient as a matrix (rows, columns) with rows <= columns."""
    for p in parameters:
        assert p.grad is not None
        matrix = p.grad.reshape(len(p), -1)
        tall = matrix.shape[0] > matrix.shape[1]
        factor = solve(matrix.mT if tall else matrix)
        p.grad.copy_((factor.mT if tall else factor).reshape(p.shape))


def replace_by_muon(parameters: list[nn.Parameter], dtype: torch.dtype) -> None:
    """Apply the iteration of torch.optim.Muon, which itself computes in bfloat16."""

    def iterate(matrix: Tensor) -> Tensor:
        x = matrix.to(dtype)
        x = x / x.norm().clamp(min=1e-7)
        a, b, c = MUON_QUINTIC
        for _ in range(5):
            gram = x @ x.mT
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x

    replace_one_by_one(parameters, iterate)


def _iterate_batch(matrices: Tensor) -> Tensor:
    """Muon's five steps in bfloat16 for a stack (count, rows, columns) with rows <= columns."""
    x = matrices.to(torch.bfloat16)
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    a, b, c = MUON_QUINTIC
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def replace_in_batches(
    parameters: list[nn.Parameter], solve: Callable[[Tensor], Tensor] = _iterate_batch
) -> None:
    """Apply `solve` to all gradients of one shape together, as a stack with rows <= columns."""
    stacks: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
    for p in parameters:
        assert p.grad is not None
        matrix = p.grad.reshape(len(p), -1)
        lying = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
        stacks.setdefault((lying.shape[0], lying.shape[1]), []).append((p.grad, lying))
    for pairs in stacks.values():
        solved = solve(torch.stack([matrix for _, matrix in pairs]))
        for (gradient, _), factor in zip(pairs, solved, strict=True):
            tall = len(gradient) > gradient[0].numel()
            gradient.copy_((factor.mT if tall else factor).reshape(gradient.shape))


def replace_by_newton_schulz(parameters: list[nn.Parameter]) -> None:
    """Apply the convergent quintic to whole matrices, one after another, until it has converged."""

    def iterate(matrix: Tensor) -> Tensor:
        schedule = newton_schulz_schedule(LOWER_BOUND / min(matrix.shape) ** 0.5, TOLERANCE)
        return apply_quintics(matrix / torch.linalg.matrix_norm(matrix), schedule)

    replace_one_by_one(parameters, iterate)


BASELINE = "SVD, one by one"
"""The method that the others' times are divided by."""

METHODS: dict[str, Callable[[list[nn.Parameter]], None]] = {
    BASELINE: replace_by_svd,
    "Muon, float32": functools.partial(replace_by_muon, dtype=torch.float32),
    "Muon, bfloat16": functools.partial(replace_by_muon, dtype=torch.bfloat16),
    "Muon, batched": replace_in_batches,
    "Newton-Schulz": replace_by_newton_schulz,
    "ours, polar_express": functools.partial(orthonormalise_, polar="polar_express"),
    "ours, muon_bf16": functools.partial(orthonormalise_, polar="muon_bf16"),
    "ours": orthonormalise_,
}

BFLOAT16 = ("Muon, bfloat16", "Muon, batched", "ours, muon_bf16")
"""Methods whose products are in bfloat16."""
