"""What stays the same from call to call, as one array of numbers: each array that Python hands over is asked for its
address and lengths, in 20 ns. One row through 64-64-10 by `model(x)` brings thirteen.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from fusedmlp.backends.arrays import Array
from fusedmlp.backends.cpu.compiling import INLINED
from fusedmlp.backends.views import source_of, view_of

ARRAY = 3  # numbers that an array takes: the address of its first element, and two lengths
_INT64 = np.dtype(np.int64)


class Packed(np.ndarray):
    """An array of numbers among which are addresses: it keeps alive what it speaks of."""

    members: tuple[Any, ...]


def packed(*members: int | Array) -> Packed:
    """Numbers, and contiguous arrays of one or two dimensions, one after the other."""
    words: list[int] = []
    for member in members:
        if isinstance(member, int):
            words.append(member)
        else:
            words += (member.__array_interface__["data"][0], *member.shape, 1)[:ARRAY]
    made = np.array(words, _INT64).view(Packed)
    made.members = members
    return made


def unpacked(kind: Any, at: int) -> Callable[..., Any]:
    """A word that is the array of this type whose numbers begin at place `at`."""

    @intrinsic
    def array(typing_context, words):
        def generate(context, builder, signature, arguments):
            source = source_of(context, builder, signature, arguments, 0)
            address, *shape = (
                builder.load(builder.gep(source.data, [ir.Constant(ir.IntType(64), at + number)]))
                for number in range(1 + kind.ndim)
            )
            size = ir.Constant(address.type, kind.dtype.bitwidth // 8)
            strides = [builder.mul(shape[1], size), size] if kind.ndim == 2 else [size]
            return view_of(context, builder, types, kind, builder.inttoptr(address, cgutils.voidptr_t), shape, strides)

        return kind(words), generate

    return array


NUMBERS = types.Array(types.int64, 1, "C")  # what is packed, as Numba knows it

# Members of a worker's context as it is packed, which is its number, the number of workers, and then these.
sync_of, bell_of = unpacked(NUMBERS, 2), unpacked(NUMBERS, 2 + ARRAY)


def context_of(tile: Any) -> Callable[..., Any]:
    """A word that is the context which was packed: the worker's number, the number of workers, the words by which they
    meet, and the worker's scratch, whose type is `tile`."""
    scratch = unpacked(tile, 2 + 2 * ARRAY)

    @njit(**INLINED)
    def context(words):
        return words[0], words[1], sync_of(words), scratch(words)

    return context


def packed_context(number: int, workers: int, sync: Array, bell: Array, tile: Array) -> Packed:
    """A worker's context. `bell` is its gang's, or empty where nobody listens to one."""
    return packed(number, workers, sync, bell, tile)
