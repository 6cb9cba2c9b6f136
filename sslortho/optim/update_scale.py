"""The length of an orthonormal update: by the sides of its matrix, and row by row."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from sslortho.optim.precision import in_float32

Scale = Literal["none", "muon", "moonlight", "spectral"]
SCALES: tuple[Scale, ...] = get_args(Scale)

MOONLIGHT_RMS = 0.2
"""Root mean square of an entry of the update: about AdamW's (arXiv 2502.16982, section 2.2)."""

ROW_EPS = 1e-10
"""Added to the root of a row's second moment, and to the norm (zichongli5/NorMuon)."""


def update_scale(rows: int, columns: int, scale: Scale) -> float:
    """Factor of the update of a matrix.

    | scale     | factor                      | source                                                 |
    |-----------|-----------------------------|--------------------------------------------------------|
    | none      | 1                           | Muon's first form                                      |
    | muon      | sqrt(max(1, rows / columns))| KellerJordan/Muon, muon.py; torch.optim.Muon's default |
    | moonlight | 0.2 sqrt(max(rows, columns))| arXiv 2502.16982, section 2.2                          |
    | spectral  | sqrt(rows / columns)        | Scion, arXiv 2502.07529: a spectral norm of maps whose |
    |           |                             | inputs and outputs have root mean square one           |

    "spectral" takes a convolution for the dense layer of its matrix: of in inputs and a k x k filter it makes
    sqrt(out / in) / k. Scion's own convolutions have sqrt(out / in) / k**2 (SpectralConv in LIONS-EPFL/scion,
    scion.py, commit a86f93e), a smaller step by the factor k. Dense layers are the same.

    Args:
        rows, columns: of one matrix, at least 1: outputs, and inputs times the filter's entries, of one
            group of a convolution; see `sslortho.optim.components`.
        scale: a name of the table.
    """
    if scale == "muon":
        return math.sqrt(max(1, rows / columns))
    if scale == "moonlight":
        return MOONLIGHT_RMS * math.sqrt(max(rows, columns))
    if scale == "spectral":
        return math.sqrt(rows / columns)
    return 1.0


def normalise_rows_(matrices: Tensor, moment: Tensor, beta: float) -> None:
    """Divide each row by the root of its running mean square, in place (NorMuon, arXiv 2510.05491).

        moment   = beta * moment + (1 - beta) * mean of the row's squares
        matrices = matrices / sqrt(moment), then brought back to the Frobenius norm they had

    The norm is kept as in the authors' code; their paper sets it to 0.2 sqrt(rows * columns), which is
    this with scale="moonlight" where the matrix is orthonormal.

    Args:
        matrices: (number, rows, columns). Half precision is computed in float32.
        moment: (number, rows, 1), zero at first; updated in place.
        beta: from 0 to below 1.
    """
    wide = in_float32(matrices)
    norm = torch.linalg.matrix_norm(wide, keepdim=True)
    moment.lerp_(wide.square().mean(dim=-1, keepdim=True), 1 - beta)
    wide = wide / (moment.sqrt() + ROW_EPS)
    wide = wide * (norm / (torch.linalg.matrix_norm(wide, keepdim=True) + ROW_EPS))
    matrices.copy_(wide)
