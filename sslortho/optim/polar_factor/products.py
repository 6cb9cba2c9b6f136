"""Products `alpha A B + beta C + gamma I` of stacks of matrices: the one operation of the iterations on a GPU.

| function            | what it computes with                                                            |
|---------------------|----------------------------------------------------------------------------------|
| `multiply`          | the precision of its input, by torch: the plain reference                        |
| `multiply_in_half`  | float16, by torch                                                                |
| `emulate_three`     | three float16 products, emulated: what the kernel of `triton_products` computes  |

Three products. A float32 number is a float16 number `hi` and a float16 rest `lo`, 22 of 24 bits. Then `A B =
hi hi + hi lo + lo hi`, summed in float32, is right to about float32's own rounding and runs on tensor cores
(Ootomo and Yokota, arXiv 2203.03341; they scale the rest alone, here the whole is scaled, see `SCALE`).
bfloat16, of which 16 bits are left, is not enough: the smallest directions that a Gram matrix holds turn ten
times as far as in float32 (`tests/optim/polar_factor/test_fused_iteration.py`).
"""

from typing import Protocol

import torch
from torch import Tensor

SCALE = 64.0
"""Factor of an operand before it is cut into float16. A power of two: it does not round.

float16 reaches from 6e-8 to 65,504. The iterations keep operands below 1 in the spectral norm, and
polynomials of Gram matrices below `gram_iteration.STAGE_GAIN`; scaled, entries of up to 1,023 are in range,
and what the rest leaves over is below 2^-31."""


class Multiply(Protocol):
    """A way to compute `alpha A B + beta C + gamma I`."""

    def __call__(
        self,
        a: Tensor,
        b: Tensor,
        *,
        alpha: float = 1.0,
        c: Tensor | None = None,
        beta: float = 0.0,
        gamma: float = 0.0,
        symmetric: bool = False,
    ) -> Tensor:
        """Multiply stacks of matrices.

        Args:
            a: (number, rows, inner); float32, or where the function takes it float64.
            b: (number, inner, columns).
            alpha: factor of the product.
            c: (number, rows, columns), or None for none.
            beta: factor of `c`.
            gamma: added to the diagonal; only for square results.
            symmetric: the caller knows that the result is: `c` is, and the product is but for rounding. One
                triangle may then be computed and mirrored.

        Returns:
            (number, rows, columns), of the dtype of `a`.
        """
        ...


def _add(product: Tensor, c: Tensor | None, beta: float, gamma: float) -> Tensor:
    """Add `beta c + gamma I` to a product, in place."""
    if c is not None:
        product.add_(c, alpha=beta)
    if gamma:
        product.diagonal(dim1=-2, dim2=-1).add_(gamma)
    return product


def multiply(
    a: Tensor,
    b: Tensor,
    *,
    alpha: float = 1.0,
    c: Tensor | None = None,
    beta: float = 0.0,
    gamma: float = 0.0,
    symmetric: bool = False,
) -> Tensor:
    """See `Multiply`: in the precision of the input, one call of the library; both triangles are computed."""
    if c is None:
        product = a @ b
        return _add(product if alpha == 1 else product.mul_(alpha), None, 0, gamma)
    return _add(torch.baddbmm(c, a, b, beta=beta, alpha=alpha), None, 0, gamma)


def multiply_in_half(
    a: Tensor,
    b: Tensor,
    *,
    alpha: float = 1.0,
    c: Tensor | None = None,
    beta: float = 0.0,
    gamma: float = 0.0,
    symmetric: bool = False,
) -> Tensor:
    """See `Multiply`: the product in float16, rounded to it; what is added to it in the precision of `a`."""
    product = (a.half() @ b.half()).to(a.dtype)
    return _add(product if alpha == 1 else product.mul_(alpha), c, beta, gamma)


def split(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Cut `SCALE * matrices` of float32 into two float16 numbers each, given as float32."""
    scaled = SCALE * matrices
    high = scaled.half().float()
    return high, (scaled - high).half().float()


def _mirror(product: Tensor) -> Tensor:
    """The symmetric matrices of which these hold the lower triangles."""
    return product.tril() + product.tril(-1).mT


def emulate_three(
    a: Tensor,
    b: Tensor,
    *,
    alpha: float = 1.0,
    c: Tensor | None = None,
    beta: float = 0.0,
    gamma: float = 0.0,
    symmetric: bool = False,
) -> Tensor:
    """See `Multiply`: the numbers of three float16 products, on any device and slowly. float32 alone."""
    (high_a, low_a), (high_b, low_b) = split(a), split(b)
    product = (high_a @ low_b + low_a @ high_b + high_a @ high_b).mul_(alpha / SCALE**2)
    return _add(_mirror(product) if symmetric else product, c, beta, gamma)
