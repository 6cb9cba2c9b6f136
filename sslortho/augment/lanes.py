"""Sixteen floats side by side, for numba kernels whose loops LLVM does not vectorise by itself.

A value of type `lanes` lives in registers: one of AVX-512, two of AVX, four of SSE or NEON. Indices
count elements of flat arrays and are not checked.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 16


class _LanesType(types.Type):
    def __init__(self) -> None:
        super().__init__("lanes")


lanes = _LanesType()

_INT = ir.IntType(32)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_FOUR = ir.VectorType(ir.FloatType(), 4)


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, type_: Any) -> None:
        super().__init__(manager, type_, _VECTOR)


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any, of: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), of.as_pointer())


def _pick(builder: Any, vector: Any, order: list[int]) -> Any:
    mask = ir.Constant(ir.VectorType(_INT, len(order)), order)
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


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
def store_pixel(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Sum the lanes of equal channel (red, green, blue, red, ...; the last lane is 0) and write them.

    Elements index to index + 2 of a float32 array get the sums, index + 3 is overwritten with
    something.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        five = arguments[2]
        four = builder.fadd(
            _pick(builder, five, list(range(8))), _pick(builder, five, list(range(6, 14)))
        )  # pixels 0 + 2, 1 + 3, and two lanes to spare
        one = builder.fadd(_pick(builder, four, [0, 1, 2, 3]), _pick(builder, four, [3, 4, 5, 6]))
        one = builder.fadd(one, _pick(builder, five, [12, 13, 14, 15]))
        address = _address(context, builder, array, arguments[0], arguments[1], _FOUR)
        builder.store(one, address, align=4)

    return types.void(array, types.intp, lanes), generate


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """The same float32 in all lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        empty = ir.Constant(_VECTOR, ir.Undefined)
        first = builder.insert_element(empty, arguments[0], ir.Constant(_INT, 0))
        return _pick(builder, first, [0] * LANES)

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
