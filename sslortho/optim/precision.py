"""Tensors in a precision in which they can be summed and normalised."""

import torch
from torch import Tensor

HALF_PRECISION = (torch.float16, torch.bfloat16)


def in_float32(tensor: Tensor) -> Tensor:
    """A half-precision tensor in float32; any other one itself.

    The norm of a float16 tensor may exceed 65,504, its largest number, and bfloat16 has 8 bits.
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def all_in_float32(tensors: list[Tensor]) -> list[Tensor]:
    """`in_float32` of each."""
    return [in_float32(tensor) for tensor in tensors]


def round_into(narrow: list[Tensor], wide: list[Tensor]) -> None:
    """Write the float32 values of half-precision tensors back; nothing if they are those tensors."""
    for target, value in zip(narrow, wide, strict=True):
        if target.dtype != value.dtype:
            target.copy_(value)


def as_scalar(rate: float | Tensor) -> float | Tensor:
    """A rate that is a tensor of one element, of any shape, as one without dimensions."""
    return rate.reshape(()) if isinstance(rate, Tensor) else rate
