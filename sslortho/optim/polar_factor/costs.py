"""Time of an iteration on a GPU, by arithmetic: which shapes to pad, and whether a CUDA graph pays.

**By arithmetic, not measured.** The numbers of `Machine` are what one H200 is expected to reach: NVIDIA's
data sheet gives 67 TFLOP/s of float32 outside tensor cores, 989 of float16 on them, 4.8 TB/s of memory. Of
the first two about 0.6 and 0.8 are usual for large products, and a launch takes the host about 5 us:

| kind of product         | TFLOP/s | methods                                          |
|-------------------------|---------|--------------------------------------------------|
| float32                 | 40      | `polar_express`, `newton_schulz`, `muon`         |
| three float16 numbers   | 263     | `polar_express_fp16x3`: a third of 790           |
| bfloat16                | 790     | `muon_bf16`                                      |

The choices depend on ratios of these numbers and change slowly with them; `benchmarks/bench_optim.py`
measures times.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import torch

from sslortho.optim.polar_factor.fast_path import FP16X3
from sslortho.optim.polar_factor.gram_iteration import SQUARE, split_stages
from sslortho.optim.polar_factor.iterative import MUON, MUON_STEPS, express_schedule
from sslortho.optim.polar_factor.polynomials import Quintic


@dataclass(frozen=True)
class Machine:
    """Speeds that a GPU is expected to reach, by arithmetic; see the table of this module."""

    float32: float = 40e12
    """Operations a second of float32 products."""
    half: float = 790e12
    """Operations a second of float16 and bfloat16 products."""
    bandwidth: float = 4.8e12
    """Bytes a second to and from memory."""
    launch: float = 5e-6
    """Seconds that a kernel takes at least: from one launch to the next, or in a graph for its own start."""

    def rate(self, method: str) -> float:
        """Operations a second of the products of a method."""
        return {FP16X3: self.half / 3, "muon_bf16": self.half}.get(method, self.float32)


H200 = Machine()
"""The device that the choices are made for."""

ELEMENTWISE = 16
"""Launches beside the products, for each stack: scaling, norms, masks, copies. Counted in the code."""


class Estimate(NamedTuple):
    """Time of the iteration of one stack."""

    launches: int
    """Kernels."""
    work: float
    """Seconds on the device, if launches took no time."""
    seconds: float
    """Seconds: each kernel takes its work or a launch, whichever is longer."""


class _Product(NamedTuple):
    rows: int
    inner: int
    columns: int
    symmetric: bool = False


def _stage(steps: tuple[Quintic, ...], n: int, m: int) -> list[_Product]:
    """Products of a stage by the Gram matrix, see `fused_iteration`."""
    gram, square = _Product(n, m, n, True), _Product(n, n, n, True)
    between = [_Product(n, n, n), _Product(n, n, n), square]  # F P, F G, F G F
    return [gram, *[square] * len(steps), *between * (len(steps) - 1), _Product(n, n, m)]


@functools.lru_cache(maxsize=4096)
def _products(method: str, n: int, m: int) -> list[_Product]:
    """Products of one wide matrix (n, m)."""
    on_rows = [_Product(n, m, n, True), _Product(n, n, n, True), _Product(n, n, m)]
    if method in MUON:
        return on_rows * MUON_STEPS
    schedule = express_schedule(torch.empty(n, m, device="meta"))
    if m < SQUARE * n:
        return [_Product(n, m, n, True), _Product(n, n, n, True), *on_rows * len(schedule)]
    return [product for stage in split_stages(schedule) for product in _stage(stage, n, m)]


@functools.lru_cache(maxsize=2**16)
def estimate(
    method: str, number: int, rows: int, columns: int, machine: Machine = H200
) -> Estimate:
    """Time of an iterative method on a stack of matrices, by arithmetic.

    newton_schulz, which takes more steps, is estimated as polar_express.
    """
    n, m = sorted((rows, columns))
    elementwise = number * 8.0 * n * m / machine.bandwidth
    work = ELEMENTWISE * elementwise
    seconds = ELEMENTWISE * max(elementwise, machine.launch)
    products = _products(method, n, m)
    for product in products:
        once = 0.5 if product.symmetric and method == FP16X3 else 1.0
        operations = 2.0 * once * product.rows * product.inner * product.columns
        entries = (product.rows + product.columns) * product.inner + product.rows * product.columns
        took = number * max(operations / machine.rate(method), 4 * entries / machine.bandwidth)
        work += took
        seconds += max(took, machine.launch)
    return Estimate(len(products) + ELEMENTWISE, work, seconds)
