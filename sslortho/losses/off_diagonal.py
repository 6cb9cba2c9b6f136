"""Entries of a matrix beside its diagonal, taken without a mask."""

import torch
from torch import Tensor


def off_diagonal(matrix: Tensor, start: int = 0) -> Tensor:
    """All entries (rows, columns - 1) but that of column `start + row` in each row, in their order.

    A mask would do the same, but its `nonzero` makes a GPU wait for the host, and an index would be twice as
    large as the matrix. Between two entries that are left out there are `columns` others.

    Args:
        matrix: (rows, columns), with at least start + rows columns.
        start: column of the entry that the first row loses.
    """
    rows, columns = matrix.shape
    entries = matrix.reshape(-1)
    last = start + (rows - 1) * (columns + 1)
    between = entries[start + 1 : last + 1].view(rows - 1, columns + 1)[:, :columns]
    parts = [entries[:start], between.reshape(-1), entries[last + 1 :]]
    return torch.cat(parts).view(rows, columns - 1)
