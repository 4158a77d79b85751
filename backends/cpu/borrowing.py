"""Arrays that an entry takes for the length of its call: whoever calls it holds them. Numba's own arrays are counted,
which takes half of the 40 ns that one costs an entry."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import NativeValue, intrinsic, models, register_model, unbox


class Borrowed(types.Array):
    """An array that is not counted."""

    @classmethod
    def of(cls, kind: types.Array) -> "Borrowed":
        return cls(kind.dtype, kind.ndim, kind.layout, readonly=not kind.mutable, name=f"borrowed {kind}")


register_model(Borrowed)(models.ArrayModel)


@unbox(Borrowed)
def _borrow(kind: Borrowed, value: Any, c: Any) -> NativeValue:
    """As Numba unboxes arrays, but for the count and for a look at the size of an element: it must be an array, and its
    rank, dtype and layout are taken on trust."""
    array = c.context.make_array(kind)(c.context, c.builder)
    view = ir.FunctionType(ir.IntType(32), [c.pyapi.pyobj, c.pyapi.voidptr])
    place = c.builder.bitcast(array._getpointer(), c.pyapi.voidptr)
    found = c.builder.call(c.pyapi._get_function(view, name="numba_adapt_ndarray"), [value, place])
    failed = cgutils.is_not_null(c.builder, found)
    with c.builder.if_then(failed, likely=False):
        c.pyapi.err_set_string("PyExc_TypeError", "expected an array")
    return NativeValue(array._getvalue(), is_error=failed)


@intrinsic
def borrowed(typing_context, array):
    """The array as one of Numba's own type."""
    made = types.Array(array.dtype, array.ndim, array.layout, readonly=not array.mutable)

    def generate(context, builder, signature, arguments):
        return arguments[0]

    return made(array), generate
