"""The nearest orthonormal matrix, by the method that fits (arXiv 2202.07052, equations 4 and 5).

How the files hang together, from the call down to the numbers:

| file             | what it does                                                                     |
|------------------|----------------------------------------------------------------------------------|
| `stacks`         | many matrices of few shapes: stacks equal shapes, solves them in bounded parts   |
| `matrices`       | one thing to solve, and where the result goes                                    |
| `parallel`       | runs those parts side by side on the CPU's threads                               |
| `factor`         | one stack: chooses the method, scales, keeps NaN and zero apart; public `polar`  |
| `decompositions` | methods `svd` (the reference) and `gram_eigh`                                    |
| `low_rank`       | the eigenproblem of `gram_eigh` made smaller where the rank is low, on a CPU      |
| `iterative`      | methods `polar_express`, `newton_schulz`, `muon` and `muon_bf16`                 |
| `gram_iteration` | applies the polynomials of the first two by the Gram matrix                      |
| `polynomials`    | the coefficients of those polynomials, for any interval and tolerance            |

On a GPU:

| file              | what it does                                                                    |
|-------------------|---------------------------------------------------------------------------------|
| `fused_iteration` | `gram_iteration` in few launches, with products to choose                       |
| `products`        | those products by torch: plain, in float16, and three float16 products emulated |
| `triton_products` | three float16 products by a Triton kernel, half of them where symmetric         |
| `fast_path`       | method `polar_express_fp16x3`: that kernel, compared once with plain products   |
| `captured`        | a whole solve as one CUDA graph                                                 |
| `padding`         | small matrices of different shapes in one stack                                 |
| `costs`           | times by arithmetic, for the choices of the last two                            |

The rest of `sslortho.optim` uses the names below; `polar` alone is public. The package is called
`polar_factor` because `sslortho.optim.polar` is that function.
"""

from sslortho.float32_products import ieee_float32
from sslortho.optim.polar_factor.factor import (
    METHODS,
    REAL,
    check_method,
    check_rank_tol,
    polar,
)
from sslortho.optim.polar_factor.iterative import (
    LOWER_BOUND,
    LOWER_BOUND_FLOAT64,
    TOLERANCE,
    TOLERANCE_FLOAT64,
)
from sslortho.optim.polar_factor.stacks import Matrices, solve

__all__ = [
    "LOWER_BOUND",
    "LOWER_BOUND_FLOAT64",
    "METHODS",
    "REAL",
    "TOLERANCE",
    "TOLERANCE_FLOAT64",
    "Matrices",
    "check_method",
    "check_rank_tol",
    "ieee_float32",
    "polar",
    "solve",
]
