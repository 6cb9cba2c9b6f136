"""The method `polar_express_fp16x3`, and the check that it passes before anybody's training depends on it.

Its products run by the kernel of `triton_products`, which no GPU has proved yet: it was run by an
interpreter, compiled for several GPUs, and emulated over the whole iteration. So a `Guard` solves the first
matrices of each shape both ways, once a process and device. Where the two disagree, or the kernel does not
compile or start, the guard warns once, and the plain float32 products serve from then on.
"""

import functools
import importlib.util
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from sslortho.optim.polar_factor.fused_iteration import iterate_fused
from sslortho.optim.polar_factor.iterative import express_schedule, polar_express
from sslortho.optim.polar_factor.products import emulate_three

FP16X3 = "polar_express_fp16x3"
"""Name of the method."""

CAPABILITY = (8, 0)
"""Compute capability from which Triton's products of float16 compile here."""

LARGEST = 2**30
"""Most entries of one matrix: the kernel counts them, and a tile beyond the edge, in 32 bits."""

AGREEMENT = 2e-3
"""Largest `disagreement` of two right solutions. Emulated over many spectra it is at most 4.4e-4. Products of
one float16 number instead of two give 3e-3 and more where the matrix is not orthonormal already, a transposed
operand or a tile left out 0.05 and more."""


@functools.cache
def is_supported(device: torch.device) -> bool:
    """Whether the kernel can run on a device: an NVIDIA GPU from CAPABILITY, and Triton at hand."""
    if device.type != "cuda" or torch.version.hip is not None or not torch.cuda.is_available():
        return False
    if importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= CAPABILITY


def disagreement(result: Tensor, expected: Tensor, matrices: Tensor) -> Tensor:
    """How far two polar factors of finite matrices A are apart, (...): `||(Q - R) A^T|| / ||A||`, Frobenius
    norms.

    A direction weighs as much as its singular value: those of rounding noise, which nobody promises, hardly
    count. 0 for a zero matrix.
    """
    difference = result - expected
    tall = matrices.shape[-2] > matrices.shape[-1]
    apart = difference.mT @ matrices if tall else difference @ matrices.mT
    size = torch.linalg.matrix_norm(matrices)
    return torch.linalg.matrix_norm(apart) / torch.where(size > 0, size, 1)


def compare(result: Tensor, expected: Tensor, matrices: Tensor) -> tuple[bool, float]:
    """Whether there was anything to compare, and the worst `disagreement`. Waits for the device, once."""
    apart = disagreement(result, expected, matrices)
    some, worst = torch.stack([matrices.abs().amax().to(apart.dtype), apart.amax()]).tolist()
    return some > 0, worst


class Guard:
    """Solves by a fast way that is compared with the plain one, shape by shape, and left if they disagree."""

    def __init__(
        self, name: str, fast: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor]
    ) -> None:
        self.name = name
        self.fast = fast
        self.plain = plain
        self._proved: set[tuple] = set()
        self._refused: set[torch.device] = set()

    def __call__(self, matrices: Tensor) -> Tensor:
        """Polar factors of finite matrices (..., rows, columns), float32, largest entry one or zero.

        Waits for the device at the first matrices of a shape that are not all zero, and never again. While a
        CUDA graph is captured nothing can wait, so a shape that was not compared before is solved the plain
        way.
        """
        device = matrices.device
        if device in self._refused:
            return self.plain(matrices)
        key = (device, *sorted(matrices.shape[-2:]))
        proved = key in self._proved
        if not proved and matrices.is_cuda and torch.cuda.is_current_stream_capturing():
            return self.plain(matrices)
        try:
            result = self.fast(matrices)
            if proved:
                return result
            expected = self.plain(matrices)
            compared, worst = compare(result, expected, matrices)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler or a driver raises
            self._refuse(device, f"it does not run there: {type(error).__name__}: {error}")
            return self.plain(matrices)
        if not worst <= AGREEMENT:  # NaN too
            sides = " x ".join(map(str, matrices.shape[-2:]))
            self._refuse(device, f"its result for {sides} matrices is off by {worst:.1e}")
            return expected
        if compared:
            self._proved.add(key)
        return result

    def _refuse(self, device: torch.device, reason: str) -> None:
        """Use the plain way from now on, and say so."""
        self._refused.add(device)
        warnings.warn(
            f"polar={self.name!r} is not used on {device}: {reason}. Matrices are solved by "
            "polar='polar_express' instead, which is exact enough and slower; give that to be rid of this "
            "warning, and please report it",
            stacklevel=2,
        )


def _by_kernel(matrices: Tensor) -> Tensor:
    from sslortho.optim.polar_factor.triton_products import multiply_three

    return iterate_fused(matrices, express_schedule(matrices), multiply_three)


guard = Guard(FP16X3, _by_kernel, polar_express)
"""The guard of this process."""


@functools.cache
def _warn_unsupported(device: torch.device) -> None:
    warnings.warn(
        f"polar={FP16X3!r} needs an NVIDIA GPU of compute capability 8.0 or more and Triton; on {device} "
        "polar='polar_express' takes its place",
        stacklevel=2,
    )


def polar_express_fp16x3(matrices: Tensor) -> Tensor:
    """`polar_express` with products of three float16 numbers each on a GPU, within float32's own errors.

    Directions above LOWER_BOUND come out within 1e-4 of exact in length and in the cosine between them and
    where they belong. On a CPU the products are emulated, which is slow, for tests. float64 matrices, and
    those through which gradients flow, are `polar_express`'s.

    Args:
        matrices: (..., rows, columns), float32 or float64, finite, largest entry one or zero.
    """
    rows, columns = matrices.shape[-2:]
    plain = matrices.dtype == torch.float64 or rows * columns > LARGEST
    if (
        plain
        or type(matrices) is not Tensor
        or (torch.is_grad_enabled() and matrices.requires_grad)
    ):
        return polar_express(matrices)
    if matrices.is_cpu:
        return iterate_fused(matrices, express_schedule(matrices), emulate_three)
    if torch.compiler.is_compiling() or not is_supported(matrices.device):
        if not torch.compiler.is_compiling():
            _warn_unsupported(matrices.device)
        return polar_express(matrices)
    return guard(matrices)


def choose_iteration(matrices: Tensor) -> str:
    """The iteration that "auto" stands for on a device that is not a CPU."""
    if torch.compiler.is_compiling() or not is_supported(matrices.device):
        return "polar_express"
    return FP16X3
