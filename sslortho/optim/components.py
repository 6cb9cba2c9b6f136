"""Which matrix a parameter is: one row for each component of its layer (arXiv 2202.07052, eq. 3).

| layer                              | parameter                      | matrices (number, rows, columns)     |
|------------------------------------|--------------------------------|--------------------------------------|
| dense, rows are components         | (out, in)                      | (1, out, in)                         |
| convolution, filters               | (out, in, kh, kw)              | (1, out, in kh kw)                   |
| grouped convolution                | (out, in / groups, kh, kw)     | (groups, out / groups, in/g kh kw)   |
| depthwise convolution              | (channels, 1, kh, kw)          | (channels, 1, kh kw)                 |

The filters of one group see channels that the other groups do not, so as a map between all channels
the layer is block diagonal, and the polar factor of a block-diagonal matrix is that of each block.
"""

from torch import Tensor


def is_matrix(tensor: Tensor) -> bool:
    """Whether a parameter holds components: more than one dimension."""
    return tensor.ndim > 1


def check_components(tensor: Tensor, components: int) -> None:
    """Raise ValueError unless the rows of `tensor` split evenly into `components` matrices."""
    if not isinstance(components, int) or components < 1 or tensor.shape[0] % components:
        raise ValueError(
            f"orth_components={components} does not divide the first dimension of a parameter of "
            f"shape {tuple(tensor.shape)}; give the number of groups of that convolution, or 1"
        )


def to_matrices(tensor: Tensor, components: int = 1) -> Tensor:
    """View (or copy, if its memory order demands one) as (components, rows, columns)."""
    check_components(tensor, components)
    # reshape, not view: a channels-last gradient has no such view
    return tensor.reshape(components, tensor.shape[0] // components, -1)


def from_matrices(matrices: Tensor, like: Tensor) -> Tensor:
    """The inverse of `to_matrices`: back to the shape of `like`."""
    return matrices.reshape(like.shape)
