"""Tensors in a precision in which they can be summed and normalised."""

import torch
from torch import Tensor

HALF_PRECISION = (torch.float16, torch.bfloat16)


def in_float32(tensor: Tensor) -> Tensor:
    """A half-precision tensor in float32; any other one itself.

    The norm of a float16 tensor may exceed 65,504, its largest number, and bfloat16 has 8 bits.
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
