"""The matrices that a parameter holds, with one row for each component (arXiv 2202.07052, eq. 3).

| layer                      | parameter                | view       | matrices (number, rows, columns) |
|----------------------------|--------------------------|------------|----------------------------------|
| dense, rows are components | (out, in)                | rows       | (1, out, in)                     |
| convolution, filters       | (out, in, kh, kw)        | rows       | (1, out, in kh kw)               |
| grouped convolution        | (out, in/groups, kh, kw) | rows       | (groups, out/groups, in/g kh kw) |
| depthwise convolution      | (channels, 1, kh, kw)    | rows       | (channels, 1, kh kw)             |
| transposed convolution     | (in, out/groups, kh, kw) | transposed | (groups, out/groups, in/g kh kw) |
| fused q, k, v, by head     | (3 heads d, in)          | rows       | (3 heads, d, in)                 |
| attention output, by head  | (out, heads d)           | columns    | (heads, out, d)                  |

The groups of a convolution see channels that the other groups do not, so as a map between all
channels the layer is block diagonal, and the polar factor of a block-diagonal matrix is that of each
block. Heads are the components that the paper names for attention (sections 1 and 5, as future work):
the map of each head gets its own nearest orthonormal matrix, whatever the other heads do.
"""

from typing import Literal, get_args

from torch import Size, Tensor

View = Literal["rows", "columns", "transposed"]
"""How the matrices lie in a parameter: one below the other, side by side, or one below the other
with input and output channels swapped, as a transposed convolution stores them."""

VIEWS: tuple[View, ...] = get_args(View)


def is_matrix(tensor: Tensor) -> bool:
    """Whether a parameter holds components: more than one dimension."""
    return tensor.ndim > 1


def check_components(tensor: Tensor, components: int, view: View = "rows") -> None:
    """Raise ValueError unless `tensor` splits evenly into `components` matrices."""
    if view not in VIEWS:
        raise ValueError(f"orth_view={view!r} is not one of {', '.join(map(repr, VIEWS))}")
    size = tensor.shape[0] if view != "columns" else tensor.shape[1:].numel()
    side = "first dimension" if view != "columns" else "columns"
    if not isinstance(components, int) or components < 1 or size % components:
        raise ValueError(
            f"orth_components={components} does not divide the {side} of a parameter of shape "
            f"{tuple(tensor.shape)}; give the number of groups of that convolution, or 1"
        )


def matrix_shape(shape: Size, components: int, view: View) -> tuple[int, int, int]:
    """(number, rows, columns) of the matrices that `to_matrices` makes of a tensor of this shape."""
    first, rest = shape[0], Size(shape[1:]).numel()
    if view == "columns":
        return components, first, rest // components
    if view == "transposed":
        return components, shape[1], first // components * Size(shape[2:]).numel()
    return components, first // components, rest


def to_matrices(tensor: Tensor, components: int = 1, view: View = "rows") -> Tensor:
    """View a tensor as its matrices (components, rows, columns); a copy if the memory order demands one.

    Raises:
        ValueError: as `check_components`.
    """
    check_components(tensor, components, view)
    # reshape, not view: a channels-last gradient cannot be viewed so
    if view == "columns":
        return tensor.reshape(tensor.shape[0], components, -1).transpose(0, 1)
    blocks = tensor.reshape(components, tensor.shape[0] // components, *tensor.shape[1:])
    return (blocks.transpose(1, 2) if view == "transposed" else blocks).flatten(2)


def matrix_view(tensor: Tensor, components: int = 1, view: View = "rows") -> Tensor | None:
    """View a tensor as its matrices, columns in the order of memory; None where that needs a copy.

    To permute the columns of a matrix permutes those of its polar factor, so a channels-last gradient
    can be replaced in place. Otherwise as `to_matrices`.
    """
    check_components(tensor, components, view)
    try:
        if view == "rows":
            order = sorted(range(1, tensor.ndim), key=lambda dim: -tensor.stride(dim))
            rows = tensor.shape[0] // components
            return tensor.permute(0, *order).view(components, rows, tensor[0].numel())
        if view == "columns":
            return tensor.view(tensor.shape[0], components, -1).transpose(0, 1)
        rows = tensor.shape[0] // components
        blocks = tensor.view(components, rows, tensor.shape[1], -1).transpose(1, 2)
        return blocks.view(*blocks.shape[:2], -1)
    except RuntimeError:
        return None


def from_matrices(matrices: Tensor, like: Tensor, view: View = "rows") -> Tensor:
    """Undo `to_matrices`: (components, rows, columns) back to the shape of `like`."""
    if view == "columns":
        return matrices.transpose(0, 1).reshape(like.shape)
    if view == "transposed":
        components = matrices.shape[0]
        blocks = matrices.unflatten(2, (like.shape[0] // components, *like.shape[2:]))
        return blocks.transpose(1, 2).reshape(like.shape)
    return matrices.reshape(like.shape)
