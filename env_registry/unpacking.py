"""One bit of many integers at once, as bytes: the inner loop of observing grid worlds.

A compiled loop would do, and the tests hold this against one. But the compiler cannot know that the two arrays do not overlap,
and windows are short and of odd lengths; to say in LLVM's own terms that 16 numbers are to be treated together makes observing
twice as fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic


def _unpack_together(width: int) -> Callable[..., None]:
    """A compiled function for `width` numbers: `out[to + k] = (numbers[start + k] >> bit) & 1` for k < width."""

    @intrinsic
    def unpack_together(typing: Any, numbers: Any, start: Any, bit: Any, out: Any, to: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            numbers_value, start_value, bit_value, out_value, to_value = values
            number = context.get_data_type(numbers.dtype)
            lanes, byte_lanes = ir.VectorType(number, width), ir.VectorType(ir.IntType(8), width)
            source = builder.gep(context.make_array(numbers)(context, builder, numbers_value).data, [start_value])
            target = builder.gep(context.make_array(out)(context, builder, out_value).data, [to_value])
            shift = builder.insert_element(
                ir.Constant(lanes, ir.Undefined),
                context.cast(builder, bit_value, bit, numbers.dtype),
                ir.Constant(ir.IntType(32), 0),
            )
            shift = builder.shuffle_vector(shift, shift, ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width))
            shifted = builder.lshr(builder.load(builder.bitcast(source, lanes.as_pointer()), align=1), shift)
            bits = builder.and_(builder.trunc(shifted, byte_lanes), ir.Constant(byte_lanes, [1] * width))
            builder.store(bits, builder.bitcast(target, byte_lanes.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.none(numbers, start, bit, out, to), generate

    return unpack_together


_unpack_8 = _unpack_together(8)
_unpack_16 = _unpack_together(16)


@njit(cache=True, inline="always")
def unpack(numbers: Any, bit: int, out: Any, to: int) -> None:
    """Writes `out[to + k] = (numbers[k] >> bit) & 1` for all k; both are contiguous, and `out` reaches that far."""
    size = numbers.shape[0]
    if size >= 16:
        for start in range(0, size - 15, 16):
            _unpack_16(numbers, start, bit, out, to + start)
        _unpack_16(numbers, size - 16, bit, out, to + size - 16)  # the rest, overlapping what is done
    elif size >= 8:
        _unpack_8(numbers, 0, bit, out, to)
        _unpack_8(numbers, size - 8, bit, out, to + size - 8)
    else:
        for k in range(size):
            out[to + k] = (numbers[k] >> bit) & 1
