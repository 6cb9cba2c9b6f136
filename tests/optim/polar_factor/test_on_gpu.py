"""The polar factor on a GPU beside a float64 SVD on the CPU."""

import pytest
import torch
from helpers.gpu import DEVICE, on_gpu
from helpers.matrices import nearest_orthonormal, well_conditioned, with_singular_values

from sslortho.optim import polar

EXACT = {
    "auto": 2e-3, "svd": 1e-4, "gram_eigh": 2e-3, "polar_express": 2e-3, "newton_schulz": 2e-3,
}  # fmt: skip
SHAPES = [(64, 64), (32, 200), (200, 32), (3, 48, 100), (1, 7), (7, 1), (64, 576)]


@on_gpu
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("method", EXACT)
def test_is_that_of_a_float64_svd(method, shape):
    matrices = well_conditioned(*shape, seed=3)
    ours = polar(matrices.float().to(DEVICE), method)
    assert ours.dtype == torch.float32
    bound = EXACT[method]
    torch.testing.assert_close(
        ours.double().cpu(), nearest_orthonormal(matrices), rtol=0, atol=bound
    )


@on_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_rounded_at_the_end_alone(dtype):
    matrices = well_conditioned(4, 32, 96).to(dtype)
    ours = polar(matrices.to(DEVICE))
    assert ours.dtype == dtype
    bound = 4 * torch.finfo(dtype).eps * 0.5 + 2e-3
    torch.testing.assert_close(
        ours.double().cpu(), nearest_orthonormal(matrices.double()), rtol=0, atol=bound
    )


@on_gpu
@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1.0, 1e6, 1e15])
def test_no_scale_matters(scale):
    matrix = well_conditioned(24, 60)
    ours = polar((scale * matrix).float().to(DEVICE)).double().cpu()
    torch.testing.assert_close(ours, nearest_orthonormal(matrix), rtol=0, atol=2e-3)


@on_gpu
def test_directions_that_are_not_there_go_to_zero_and_zero_stays_zero():
    values = [1.0, 0.5, 0.2] + [0.0] * 13
    matrix = with_singular_values(16, 40, values)
    both = torch.stack([matrix, torch.zeros_like(matrix)])
    ours = polar(both.float().to(DEVICE)).double().cpu()
    torch.testing.assert_close(ours[0], nearest_orthonormal(matrix, 1e-6), rtol=0, atol=5e-3)
    assert not ours[1].any()
