"""Sixteen floats side by side, for numba kernels whose loops LLVM does not vectorise by itself.

A value of type `lanes` lives in registers: one of AVX-512, two of AVX, four of SSE or NEON. Indices
count elements of flat arrays and are not checked.
"""

from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils
from numba.extending import models, register_model

intrinsic: Any = extending.intrinsic  # for type checkers: callers do not pass `typing`

LANES = 16


class _LanesType(types.Type):
    def __init__(self) -> None:
        super().__init__("lanes")


lanes = _LanesType()

_INT = ir.IntType(32)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, type_: Any) -> None:
        super().__init__(manager, type_, _VECTOR)


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any, of: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), of.as_pointer())


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """Elements index to index + 15 of a float32 array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, array, arguments[0], arguments[1], _VECTOR)
        return builder.load(address, align=4)

    return lanes(array, types.intp), generate


@intrinsic
def load_bytes(typing: Any, array: Any, index: Any) -> Any:
    """Elements index to index + 15 of a uint8 array, as floats."""
    narrow, wide = (ir.VectorType(ir.IntType(bits), LANES) for bits in (8, 32))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, array, arguments[0], arguments[1], narrow)
        # by way of int32, which has one instruction to float where uint32 has several
        return builder.sitofp(builder.zext(builder.load(address, align=1), wide), _VECTOR)

    return lanes(array, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write all lanes to elements index to index + 15 of a float32 array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        address = _address(context, builder, array, arguments[0], arguments[1], _VECTOR)
        builder.store(arguments[2], address, align=4)

    return types.void(array, types.intp, lanes), generate


@intrinsic
def transpose(
    typing: Any, source: Any, at: Any, pitch: Any, target: Any, to: Any, target_pitch: Any
) -> Any:
    """Turn a square of 16 rows of 16 elements: rows become columns.

    Row i of float32 `source` begins at at + i * pitch, and of float32 `target` at to + i * target_pitch.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        array, at, pitch, target_array, to, target_pitch = arguments

        def row(array_type: Any, array: Any, start: Any, pitch: Any, i: int) -> Any:
            index = builder.add(start, builder.mul(pitch, ir.Constant(pitch.type, i)))
            return _address(context, builder, array_type, array, index, _VECTOR)

        rows = [builder.load(row(source, array, at, pitch, i), align=4) for i in range(LANES)]
        # interleaving row i with row i + 8 moves every element by one bit of its place; after four
        # times the four bits of the row and those of the column have changed places
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
    """a0 b0 a1 b1 ... of the first eight lanes, and of the last eight."""
    pairs = [place for lane in range(LANES) for place in (lane, LANES + lane)]
    masks = (ir.Constant(ir.VectorType(_INT, LANES), pairs[i : i + LANES]) for i in (0, LANES))
    return [builder.shuffle_vector(a, b, mask) for mask in masks]


@intrinsic
def to_levels(typing: Any, value: Any) -> Any:
    """The nearest whole numbers from 0 to 255; halves go up."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def call(name: str, *values: Any) -> Any:
            kind = ir.FunctionType(_VECTOR, [_VECTOR] * len(values))
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            return builder.call(function, values)

        def constant(number: float) -> Any:
            return ir.Constant(_VECTOR, [number] * LANES)

        value = call("llvm.maxnum.v16f32", arguments[0], constant(0.0))
        value = call("llvm.minnum.v16f32", value, constant(255.0))
        return call("llvm.floor.v16f32", builder.fadd(value, constant(0.5)))

    return lanes(lanes), generate


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """The same float32 in all lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        empty = ir.Constant(_VECTOR, ir.Undefined)
        first = builder.insert_element(empty, arguments[0], ir.Constant(_INT, 0))
        everywhere = ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES)
        return builder.shuffle_vector(first, empty, everywhere)

    return lanes(types.float32), generate


@intrinsic
def zeros(typing: Any) -> Any:
    """0 in all lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(_VECTOR, [0.0] * LANES)

    return lanes(), generate


@intrinsic
def add(typing: Any, a: Any, b: Any) -> Any:
    """A + b."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fadd(*arguments)

    return lanes(lanes, lanes), generate


@intrinsic
def multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """A * b + c, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.fma.v16f32")
        return builder.call(function, arguments)

    return lanes(lanes, lanes, lanes), generate
