"""Steps taken by hand, and their comparison with a singular value decomposition in float64."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from conformance.adapter import Adapter, Option
from conformance.layers import Case, Network, Split

LEFT_OUT = "left to its other optimizer"


def spread_gradient(shape: Sequence[int], seed: int = 0) -> Tensor:
    """A float32 gradient whose singular values spread over about a factor of 30."""
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(*shape, generator=generator)
    for dim in {0, len(shape) - 1}:
        sizes = torch.logspace(0, -0.7, shape[dim])[torch.randperm(shape[dim], generator=generator)]
        gradient = gradient * sizes.reshape([-1 if i == dim else 1 for i in range(len(shape))])
    return gradient


def set_gradients(model: nn.Module, seed: int = 100) -> None:
    """Give every parameter a gradient, in its type."""
    for i, parameter in enumerate(model.parameters()):
        parameter.grad = spread_gradient(parameter.shape or (1,), seed + i).to(parameter.dtype)


def step_once(optimizer, parameter: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Take a step with this gradient; the parameter before it and minus its change, float64."""
    before = parameter.detach().clone()
    parameter.grad = gradient
    optimizer.step()
    return before.double(), before.double() - parameter.detach().double()


def update_of(
    option: Option, layer: nn.Module, gradient: Tensor, rate: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The layer's weight before the first step of an optimizer, and its update at rate one."""
    torch.manual_seed(0)
    model = Network(layer).to(gradient.dtype)
    weight = layer.weight
    assert isinstance(weight, Tensor)
    set_gradients(model)
    before, update = step_once(option.build(model, rate), weight, gradient)
    return before, update / rate


def is_elementwise(update: Tensor, gradient: Tensor) -> bool:
    """Whether an update is the gradient times a number, or its sign, as SGD's and Adam's first are."""
    moved, gradient = update[gradient != 0], gradient[gradient != 0].double()
    if not moved.numel() or not moved.isfinite().all():
        return False
    sizes = moved.abs()
    is_sign = bool((moved.sign() == gradient.sign()).all()) and sizes.max() <= 1.05 * sizes.min()
    return is_sign or bool(torch.cosine_similarity(moved, gradient, dim=0) > 0.9999)


def is_left_out(update: Tensor, gradient: Tensor) -> bool:
    """Whether SGD or Adam made an update; a gradient of another length is a normalised one."""
    length = (update.norm() / gradient.double().norm()).item()
    signs = update[gradient != 0].abs()
    is_sign = bool(signs.max() <= 1.05 * signs.min())
    # torch's SGD with Nesterov's momentum makes a first step of 1.95 gradients at most
    return is_elementwise(update, gradient) and (is_sign or 0.99 <= length <= 2)


def polar_bases(matrix: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """U and V^T of the decomposition, without the directions beyond the rank."""
    u, _, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u[:, :rank], vt[:rank]


def spectral_distance(update: Tensor, u: Tensor, vt: Tensor) -> float:
    """Largest singular value of `update - u vt`: 0 for the polar factor, 1 for a missing direction."""
    return torch.linalg.matrix_norm(update - u @ vt, ord=2).item()


def distance(
    option: Option, split: Split, before: Tensor, gradient: Tensor, update: Tensor
) -> float:
    """Largest spectral distance of a matrix of the update from the promised one, relative to it."""
    bases = [polar_bases(matrix) for matrix in split(gradient)]
    scale = option.scale(before, [u @ vt for u, vt in bases])
    pairs = zip(split(update), bases, strict=True)
    return max(spectral_distance(matrix / scale, *basis) for matrix, basis in pairs)


def check_first_step(adapter: Adapter, case: Case, gradient: Tensor | None = None) -> None:
    """Compare the first update of a layer with the polar factors of its gradient.

    Skips where the weight is left to another optimizer.
    """
    require_orthogonal(adapter)
    layer = case.layer()
    if gradient is None:
        gradient = spread_gradient(layer.weight.shape)
    exact = gradient.detach().clone().double()
    before, update = update_of(adapter.first, layer, gradient)
    assert update.isfinite().all(), "the update is not finite"
    if is_left_out(update, exact):
        pytest.skip(LEFT_OUT)
    nearest = min(distance(adapter.first, split, before, exact, update) for split in case.splits)
    assert nearest <= adapter.accuracy, f"{nearest:.2g} away from the orthonormal matrix"


def require_orthogonal(adapter: Adapter) -> None:
    if not adapter.orthogonal:
        pytest.skip("promises a size alone")
