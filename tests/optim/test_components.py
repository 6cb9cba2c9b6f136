import numpy as np
import pytest
import torch
from helpers.matrices import nearest_orthonormal
from torch import nn

from sslortho.optim import orthonormalise_
from sslortho.optim.components import VIEWS, from_matrices, matrix_view, to_matrices

SHAPES = [(6, 4), (6, 4, 3), (6, 4, 3, 2), (6, 4, 3, 2, 2)]


@pytest.mark.parametrize("components", [1, 2])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_there_and_back(shape, view, components):
    tensor = torch.randn(shape)
    matrices = to_matrices(tensor, components, view)
    assert matrices.shape[0] == components
    assert matrices.numel() == tensor.numel()
    assert torch.equal(from_matrices(matrices, tensor, view), tensor)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(6, 4),
        torch.randn(6, 4, 3, 3),
        torch.randn(6, 4, 3, 3).to(memory_format=torch.channels_last),
        torch.randn(6, 4, 3, 3, 3).to(memory_format=torch.channels_last_3d),
        torch.randn(6, 4, 1, 1).to(memory_format=torch.channels_last),
        torch.randn(6, 1, 2, 3).to(memory_format=torch.channels_last),
        torch.randn(12, 8)[::2, ::2],
        torch.randn(4, 6).mT,
    ],
)
def test_a_view_has_the_columns_in_another_order(tensor, view):
    """Two matrices with the same columns in any order have the same `A A^T`."""
    matrices = matrix_view(tensor, 2, view)
    if matrices is None:  # a copy is made of it; of a plain layout none is needed
        assert view == "transposed" or (view == "columns" and not tensor.is_contiguous())
        return
    assert matrices.data_ptr() == tensor.data_ptr()
    plain = to_matrices(tensor, 2, view)
    assert matrices.shape == plain.shape
    torch.testing.assert_close(matrices @ matrices.mT, plain @ plain.mT)


def test_channels_last_gradients_are_never_copied():
    gradient = torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last)
    assert matrix_view(gradient) is not None


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_transposed_convolution_has_output_channels_as_components(groups):
    """Oracle: the rows of the map's matrix, found by sending unit images through the layer."""
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(8, 8, 3, groups=groups, bias=False).double()
    layer(torch.randn(5, 8, 4, 4, dtype=torch.float64)).square().sum().backward()
    gradient = layer.weight.grad.clone()
    with torch.no_grad():
        layer.weight.copy_(gradient)
        unit = torch.eye(8, dtype=torch.float64)[:, :, None, None]
        whole = layer(unit)  # (in, out, 3, 3): each input channel's kernel to each output channel
    whole = whole.transpose(0, 1).flatten(1)  # (out, in 9), zero between groups
    expected = nearest_orthonormal(whole)
    orthonormalise_([layer.weight], "svd", components=groups, view="transposed")
    with torch.no_grad():
        layer.weight.copy_(layer.weight.grad)
        result = layer(unit).transpose(0, 1).flatten(1)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-9)


def test_heads_of_a_fused_projection():
    """Oracle: q, k and v of each head cut out by hand, as timm's attention does."""
    torch.manual_seed(0)
    heads, dim, width = 4, 3, 10
    parameter = nn.Parameter(torch.zeros(3 * heads * dim, width))
    parameter.grad = torch.randn(3 * heads * dim, width)
    pieces = parameter.grad.clone().reshape(3, heads, dim, width)
    orthonormalise_([parameter], components=3 * heads)
    result = parameter.grad.reshape(3, heads, dim, width)
    for part in range(3):
        for head in range(heads):
            expected = nearest_orthonormal(pieces[part, head]).float()
            torch.testing.assert_close(result[part, head], expected, rtol=0, atol=2e-5)


def test_heads_of_an_output_projection_are_blocks_of_columns():
    torch.manual_seed(0)
    heads, dim, out = 4, 3, 7
    parameter = nn.Parameter(torch.zeros(out, heads * dim))
    parameter.grad = torch.randn(out, heads * dim)
    before = parameter.grad.clone()
    orthonormalise_([parameter], components=heads, view="columns")
    for head in np.split(np.arange(heads * dim), heads):
        expected = nearest_orthonormal(before[:, head]).float()
        torch.testing.assert_close(parameter.grad[:, head], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("components", "view", "message"),
    [
        (4, "rows", r"orth_components=4 does not divide the first dimension .*\(6, 10\)"),
        (3, "columns", r"orth_components=3 does not divide the columns .*\(6, 10\)"),
        (4, "transposed", "orth_components=4 does not divide the first dimension"),
        (1, "row", "orth_view='row' is not one of 'rows', 'columns', 'transposed'"),
    ],
)
def test_errors(components, view, message):
    with pytest.raises(ValueError, match=message):
        to_matrices(torch.zeros(6, 10), components, view)
