"""Vectors of sixteen float32 for numba kernels, written as LLVM instructions by hand.

This file is an optimisation and nothing else depends on its internals. Two kernels need it: the crops
(`geometry_kernel`), and blur and mean (`photometric_kernel`). Under strict IEEE 754 arithmetic LLVM
may neither reorder their sums nor fuse a product with a sum, and each result pixel of a resampled row
has its own source pixels and weights; so LLVM alone finds few vectors in them. The other loops of
this folder are plain numba, which LLVM vectorises.

What the plain way costs: `python benchmarks/bench_simd.py` renders the same pairs of 224-pixel views
of a 375 x 500 photograph with these kernels and with plain loops in their place, on one thread,
without decoding. Rendering takes 1.4 times as long if the crops are plain, 1.3 times if blur and mean
are, 1.6 to 1.7 times (2.5 instead of 1.5 ms a pair) if all are (AMD EPYC, 2 cores shared with other
work, 2026-11-29; medians of 40 rounds, processor time).
The plain loops stand in that file; their views differ from these by rounding alone.

A vector is held in registers: one of AVX-512, two of AVX, four of SSE or NEON. Indices count elements
of flat arrays and are not checked.

How an operation is written: the body of an `@intrinsic` function runs while numba compiles a kernel.
It returns the numba types of result and arguments, and `generate`, which emits the LLVM instructions
through llvmlite's builder. tests/augment/cpu/test_simd.py compares each with numpy.
"""

from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils
from numba.extending import models, register_model

intrinsic: Any = extending.intrinsic  # Any for type checkers: callers do not pass `typing`

LANES = 16
"""Number of floats in a vector."""


class _Float32x16(types.Type):
    def __init__(self) -> None:
        super().__init__("float32x16")


float32x16 = _Float32x16()

_LLVM_INT = ir.IntType(32)
_LLVM_FLOATS = ir.VectorType(ir.FloatType(), LANES)


@register_model(_Float32x16)
class _Float32x16Model(models.PrimitiveModel):
    def __init__(self, manager: Any, type_: Any) -> None:
        super().__init__(manager, type_, _LLVM_FLOATS)


def _address(
    context: Any, builder: Any, array_type: Any, array: Any, index: Any, pointee: Any
) -> Any:
    """Pointer to element `index` of an array, as a pointer to `pointee`."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), pointee.as_pointer())


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """Read elements index to index + 15 of a float32 array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, array, arguments[0], arguments[1], _LLVM_FLOATS)
        return builder.load(address, align=4)

    return float32x16(array, types.intp), generate


@intrinsic
def load_bytes(typing: Any, array: Any, index: Any) -> Any:
    """Read elements index to index + 15 of a uint8 array, as floats."""
    narrow, wide = (ir.VectorType(ir.IntType(bits), LANES) for bits in (8, 32))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, array, arguments[0], arguments[1], narrow)
        # through int32: one instruction to float, where uint32 takes several
        return builder.sitofp(builder.zext(builder.load(address, align=1), wide), _LLVM_FLOATS)

    return float32x16(array, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write a vector to elements index to index + 15 of a float32 array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        address = _address(context, builder, array, arguments[0], arguments[1], _LLVM_FLOATS)
        builder.store(arguments[2], address, align=4)

    return types.void(array, types.intp, float32x16), generate


@intrinsic
def transpose(
    typing: Any, source: Any, at: Any, pitch: Any, target: Any, to: Any, target_pitch: Any
) -> Any:
    """Transpose a square of 16 rows of 16 elements.

    Row i of float32 `source` begins at at + i * pitch, row i of float32 `target` at to + i *
    target_pitch.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        array, at, pitch, target_array, to, target_pitch = arguments

        def row(array_type: Any, array: Any, start: Any, pitch: Any, i: int) -> Any:
            index = builder.add(start, builder.mul(pitch, ir.Constant(pitch.type, i)))
            return _address(context, builder, array_type, array, index, _LLVM_FLOATS)

        rows = [builder.load(row(source, array, at, pitch, i), align=4) for i in range(LANES)]
        # The place of an element is eight bits: four of its row, four of its column. Interleaving row
        # i with row i + 8 rotates them by one; after four times rows and columns are exchanged.
        for _ in range(4):
            rows = [
                half
                for a, b in zip(rows[:8], rows[8:], strict=True)
                for half in _interleave(builder, a, b)
            ]
        for i, vector in enumerate(rows):
            address = row(target, target_array, to, target_pitch, i)
            builder.store(vector, address, align=4)

    index = types.intp
    return types.void(source, index, index, target, index, index), generate


def _interleave(builder: Any, a: Any, b: Any) -> list[Any]:
    """Return a0 b0 a1 b1 ... of the first eight elements, and the same of the last eight."""
    pairs = [place for lane in range(LANES) for place in (lane, LANES + lane)]
    masks = (ir.Constant(ir.VectorType(_LLVM_INT, LANES), pairs[i : i + LANES]) for i in (0, LANES))
    return [builder.shuffle_vector(a, b, mask) for mask in masks]


@intrinsic
def to_levels(typing: Any, value: Any) -> Any:
    """Round to the nearest whole numbers from 0 to 255; halves go up."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def call(name: str, *values: Any) -> Any:
            kind = ir.FunctionType(_LLVM_FLOATS, [_LLVM_FLOATS] * len(values))
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            return builder.call(function, values)

        def constant(number: float) -> Any:
            return ir.Constant(_LLVM_FLOATS, [number] * LANES)

        value = call("llvm.maxnum.v16f32", arguments[0], constant(0.0))
        value = call("llvm.minnum.v16f32", value, constant(255.0))
        return call("llvm.floor.v16f32", builder.fadd(value, constant(0.5)))

    return float32x16(float32x16), generate


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """Repeat a float32 in all elements."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        empty = ir.Constant(_LLVM_FLOATS, ir.Undefined)
        first = builder.insert_element(empty, arguments[0], ir.Constant(_LLVM_INT, 0))
        everywhere = ir.Constant(ir.VectorType(_LLVM_INT, LANES), [0] * LANES)
        return builder.shuffle_vector(first, empty, everywhere)

    return float32x16(types.float32), generate


@intrinsic
def zeros(typing: Any) -> Any:
    """Return a vector of zeros."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(_LLVM_FLOATS, [0.0] * LANES)

    return float32x16(), generate


@intrinsic
def add(typing: Any, a: Any, b: Any) -> Any:
    """Return a + b."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fadd(*arguments)

    return float32x16(float32x16, float32x16), generate


@intrinsic
def multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_LLVM_FLOATS, [_LLVM_FLOATS] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.fma.v16f32")
        return builder.call(function, arguments)

    return float32x16(float32x16, float32x16, float32x16), generate
