"""Inputs of losses: what is checked of projections and weights, and the precision they are computed in."""

import math

import torch
from torch import Tensor


def check_weight(name: str, value: float) -> None:
    """Raise ValueError for a weight of a term that is negative, infinite or nan."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}={value} must be 0 or more, and finite")


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless a divisor or length is above 0 and finite."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name}={value} must be above 0, and finite")


def check_numbers(**tensors: Tensor) -> None:
    """Raise ValueError for tensors that are no real floating point, have no dimension, or lie elsewhere.

    Args:
        tensors: by the names that the caller knows them by.
    """
    names, given = " and ".join(tensors), tensors.values()
    must = "must both" if len(tensors) > 1 else "must"
    if not all(z.is_floating_point() and z.shape[-1] for z in given):
        dtypes = " and ".join(str(z.dtype) for z in given)
        shapes = " and ".join(dict.fromkeys(str(tuple(z.shape)) for z in given))
        raise ValueError(
            f"{names} {must} be real floating point with one dimension or more, got {dtypes} of shape {shapes}"
        )
    devices = [z.device for z in given]
    if devices[0].type == "meta" or any(device != devices[0] for device in devices):
        raise ValueError(
            f"{names} {must} be on one device that holds numbers, got "
            f"{' and '.join(map(str, devices))}"
        )


def check_pair(z_a: Tensor, z_b: Tensor) -> None:
    """Raise ValueError unless two batches of projections are (batch, dim), alike, and `check_numbers`."""
    if z_a.ndim != 2 or z_a.shape != z_b.shape:
        raise ValueError(
            f"z_a and z_b must both be (batch, dim), got {tuple(z_a.shape)} and {tuple(z_b.shape)}"
        )
    check_numbers(z_a=z_a, z_b=z_b)


def check_stack(z: Tensor, **others: Tensor) -> None:
    """Raise ValueError for projections (..., batch, dim) that have no samples, or fail `check_numbers`."""
    check_numbers(z=z, **others)
    if not z.numel():
        raise ValueError(f"z of shape {tuple(z.shape)} has no samples; give one or more")


def widen(z: Tensor) -> Tensor:
    """A half-precision tensor in float32, any other one itself.

    Losses widen with autocast off, which would compute their products in half precision again.
    """
    return z.to(torch.promote_types(z.dtype, torch.float32))
