import numpy as np
import pytest
import scipy.linalg
import torch
from helpers.matrices import nearest_orthonormal, well_conditioned
from torch import nn

from sslortho.optim import orthonormalise_
from sslortho.optim.gradients import normalise_

CLOSE = {"rtol": 0, "atol": 2e-5}


def with_gradient(gradient: torch.Tensor, **kind) -> nn.Parameter:
    parameter = nn.Parameter(torch.zeros_like(gradient, **kind))
    parameter.grad = gradient
    return parameter


def expected_gradient(gradient: torch.Tensor) -> torch.Tensor:
    """The polar factor by numpy of a gradient that is one matrix, in its shape and dtype."""
    matrix = gradient.double().reshape(len(gradient), -1)
    return nearest_orthonormal(matrix).reshape(gradient.shape).to(gradient.dtype)


@pytest.mark.parametrize("polar", ["auto", "svd", "gram_eigh", "polar_express", "newton_schulz"])
@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 3, 3, 3), (4, 2, 5), (5, 2, 2, 2, 2)])
def test_rows_are_components_and_storage_is_kept(shape, polar):
    parameter = with_gradient(well_conditioned(shape[0], int(np.prod(shape[1:]))).view(shape))
    gradient, pointer = parameter.grad, parameter.grad.data_ptr()
    expected = expected_gradient(gradient)
    orthonormalise_([parameter], polar)
    assert parameter.grad is gradient
    assert gradient.data_ptr() == pointer
    iterative = polar in ("polar_express", "newton_schulz")
    torch.testing.assert_close(gradient, expected, rtol=0, atol=2e-3 if iterative else 1e-9)


def test_takes_one_parameter_a_list_or_a_generator():
    gradient = well_conditioned(4, 6).float()
    single, listed, generated = (with_gradient(gradient.clone()) for _ in range(3))
    orthonormalise_(single)
    orthonormalise_([listed])
    orthonormalise_(p for p in [generated])
    for parameter in (single, listed, generated):
        torch.testing.assert_close(parameter.grad, expected_gradient(gradient), **CLOSE)


@pytest.mark.parametrize("replace", [orthonormalise_, normalise_])
def test_vectors_scalars_and_missing_gradients_are_left_alone(replace):
    vector, scalar = with_gradient(torch.arange(5.0)), with_gradient(torch.tensor(3.0))
    none, matrix = nn.Parameter(torch.ones(2, 3)), with_gradient(well_conditioned(2, 3).float())
    before = matrix.grad.clone()
    replace([vector, none, scalar, matrix])
    assert none.grad is None
    assert torch.equal(vector.grad, torch.arange(5.0))
    assert scalar.grad.item() == 3.0
    assert not torch.equal(matrix.grad, before)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 3, 3, 3)], ids=str)
@pytest.mark.parametrize("replace", [orthonormalise_, normalise_])
def test_empty_parameters_are_left_alone(replace, shape):
    """As torch.optim.SGD does: a layer of no outputs is legal."""
    parameter = with_gradient(torch.zeros(shape))
    replace([parameter])
    assert parameter.grad.shape == shape


def test_channels_last_convolution_of_a_backward_pass():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 9, 9).to(memory_format=torch.channels_last)
    conv(images).square().sum().backward()
    # what a backward pass lays out differs between backends
    conv.weight.grad = conv.weight.grad.contiguous(memory_format=torch.channels_last)
    assert not conv.weight.grad.is_contiguous()
    expected, strides = expected_gradient(conv.weight.grad), conv.weight.grad.stride()
    orthonormalise_(conv.parameters())
    assert conv.weight.grad.stride() == strides
    torch.testing.assert_close(conv.weight.grad, expected, **CLOSE)


@pytest.mark.parametrize(
    "view",
    [lambda g: g.mT, lambda g: g[:, ::2], lambda g: g[1:, 3:]],
    ids=["transposed", "strided", "sliced"],
)
@pytest.mark.parametrize("replace", [orthonormalise_, normalise_])
def test_gradients_that_are_not_contiguous_are_written_through(replace, view):
    base = well_conditioned(6, 10).float()
    around, gradient = base.clone(), view(base)
    contiguous = with_gradient(gradient.clone(memory_format=torch.contiguous_format))
    replace([contiguous])
    parameter = nn.Parameter(torch.zeros(gradient.shape))
    parameter.grad = gradient
    replace([parameter])
    torch.testing.assert_close(view(base), contiguous.grad, rtol=0, atol=1e-6)
    view(base).copy_(view(around))
    assert torch.equal(base, around)  # nothing written beside the view


def test_a_gradient_that_is_listed_twice_is_replaced_once(set_threads):
    """On several threads; a second replacement would read what the first has half written."""
    set_threads(2)
    gradients = [torch.randn(400, 600, generator=torch.Generator().manual_seed(i)) for i in (0, 1)]
    parameters = [with_gradient(gradient.clone()) for gradient in gradients]
    tied = nn.Parameter(torch.zeros(400, 600))
    tied.grad = parameters[0].grad
    orthonormalise_([parameters[0], parameters[0], tied, parameters[1]])
    for parameter, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(parameter.grad, expected_gradient(gradient), **CLOSE)


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_grouped_convolution_is_a_block_diagonal_matrix(groups):
    """Oracle: numpy's polar factor of the whole block-diagonal map, whose blocks are the groups."""
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3, groups=groups, bias=False)
    conv(torch.randn(5, 8, 7, 7)).square().sum().backward()
    blocks = conv.weight.grad.double().reshape(groups, 8 // groups, -1)
    whole = nearest_orthonormal(torch.from_numpy(scipy.linalg.block_diag(*blocks.numpy())))
    orthonormalise_(conv.parameters(), components=groups)
    result = conv.weight.grad.reshape(groups, 8 // groups, -1).double().numpy()
    torch.testing.assert_close(torch.from_numpy(scipy.linalg.block_diag(*result)), whole, **CLOSE)


def test_depthwise_filters_have_norm_one_each():
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, 3, groups=6, bias=False)
    conv(torch.randn(5, 6, 7, 7)).square().sum().backward()
    expected = nn.functional.normalize(conv.weight.grad.flatten(1)).view_as(conv.weight)
    orthonormalise_([conv.weight], components=6)
    torch.testing.assert_close(conv.weight.grad, expected, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("replace", [orthonormalise_, normalise_])
def test_half_precision_gradients_keep_their_type(replace, dtype):
    gradient = (well_conditioned(6, 12) * 5e4).to(dtype)
    parameter, reference = with_gradient(gradient.clone()), with_gradient(gradient.double())
    replace([parameter])
    replace([reference])
    assert parameter.grad.dtype == dtype
    assert torch.linalg.matrix_norm(reference.grad) >= 1 - 1e-9
    atol = torch.finfo(dtype).eps
    torch.testing.assert_close(parameter.grad.double(), reference.grad, rtol=0, atol=atol)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_becomes_nan_and_leaves_the_others(bad):
    gradients = [well_conditioned(4, 6, seed=seed).float() for seed in (0, 2, 4)]
    parameters = [with_gradient(gradient.clone()) for gradient in gradients]
    parameters[1].grad[2, 3] = bad
    orthonormalise_(parameters)
    assert parameters[1].grad.isnan().all()
    for i in (0, 2):
        torch.testing.assert_close(parameters[i].grad, expected_gradient(gradients[i]), **CLOSE)


def sparse_parameter() -> nn.Parameter:
    table = nn.Embedding(5, 3, sparse=True)
    table(torch.tensor([1, 4])).sum().backward()
    return table.weight


@pytest.mark.parametrize("replace", [orthonormalise_, normalise_])
def test_sparse_and_complex_gradients_are_refused(replace):
    with pytest.raises(ValueError, match=r"\(5, 3\) is torch.sparse_coo.*orth=False"):
        replace([sparse_parameter()])
    with pytest.raises(ValueError, match=r"\(2, 3\) is complex.*orth=False"):
        replace([with_gradient(torch.ones(2, 3, dtype=torch.complex64))])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: orthonormalise_([p], components=4), r"orth_components=4 .*\(6, 8\)"),
        (lambda p: orthonormalise_([p], components=0), "orth_components=0"),
        (lambda p: orthonormalise_([p], "gram_eig"), "did you mean gram_eigh"),
        (lambda p: orthonormalise_([p], "polar_express", rank_tol=0.1), "rank_tol=0.1.*no effect"),
        (lambda p: normalise_([p], per="row"), "per='row'.*'layer', 'component'"),
    ],
)
def test_errors_leave_the_gradient_as_it_was(call, message):
    parameter = with_gradient(well_conditioned(6, 8).float())
    before = parameter.grad.clone()
    with pytest.raises(ValueError, match=message):
        call(parameter)
    assert torch.equal(parameter.grad, before)


def test_rank_tol_is_passed_on():
    gradient = torch.diag(torch.tensor([1.0, 0.4, 0.2]))
    parameter = with_gradient(gradient)
    orthonormalise_([parameter], "svd", rank_tol=0.3)
    torch.testing.assert_close(parameter.grad, torch.diag(torch.tensor([1.0, 1.0, 0.0])))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (3, 2, 3, 3)])
def test_normalise_divides_by_the_norm_of_layer_or_row(shape, scale):
    torch.manual_seed(0)
    gradient = torch.randn(shape)
    rows = [row / np.sqrt((row**2).sum()) for row in gradient.double().numpy()]
    layer = gradient.double().numpy() / np.sqrt((gradient.double().numpy() ** 2).sum())
    for per, expected in (("component", np.stack(rows)), ("layer", layer)):
        parameter = with_gradient(gradient * scale)
        normalise_([parameter], per=per)
        expected = torch.from_numpy(expected).float()
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("per", ["layer", "component"])
def test_normalise_keeps_zeros(per):
    gradient = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    some, none = with_gradient(gradient), with_gradient(torch.zeros(3, 3))
    normalise_([some, none], per=per)
    torch.testing.assert_close(some.grad, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    assert torch.equal(none.grad, torch.zeros(3, 3))
