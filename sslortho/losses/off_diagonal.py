"""Entries of a matrix beside its diagonal, taken without a mask."""

import torch
from torch import Tensor


def off_diagonal(matrix: Tensor, start: int = 0) -> Tensor:
    """All entries (rows, columns - 1) but that of column `start + row` in each row, in their order.

    A mask would do the same, but its `nonzero` makes a GPU wait for the host.

    Args:
        matrix: (rows, columns), with at least start + rows columns.
        start: column of the entry that the first row loses.
    """
    rows, columns = matrix.shape
    places = torch.arange(columns - 1, device=matrix.device).expand(rows, -1)
    left_out = torch.arange(start, start + rows, device=matrix.device).unsqueeze(1)
    return matrix.gather(1, places + (places >= left_out))
