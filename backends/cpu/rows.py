"""The words over rows. LLVM may not change the order of a sum, and adds up one number after the other; so these words
have vectors of their own, as long on every processor: the order of a sum depends on its length alone."""

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fusedmlp.backends.cpu.mathematics import FORMATS, Number, exp
from fusedmlp.backends.cpu.vectors import Emitter, int32, int64
from fusedmlp.backends.views import itemsize_of, source_of
from fusedmlp.kernels.summation import STRETCH

LANES = 16
STRETCH_LENGTH = STRETCH * LANES

Made = Callable[[Any, Any, Any], Any]
Join = Callable[[Any, Any], Any]


@intrinsic
def gapless(typing_context, c, a):
    """A loop over a row takes as long to begin and to end as for 64 numbers."""

    def generate(context, builder, signature, arguments):
        source = source_of(context, builder, signature, arguments, 1)
        stride, itemsize = cgutils.unpack_tuple(builder, source.strides, 2)
        columns = cgutils.unpack_tuple(builder, source.shape, 2)[1]
        return builder.icmp_signed("==", stride, builder.mul(columns, itemsize))

    return types.boolean(c, a), generate


@intrinsic
def in_place(typing_context, c, z, y):
    """y, after it was given the numbers of z: where a loop reads and writes one row, LLVM need not fear that it reads
    what a turn before has written."""

    def generate(context, builder, signature, arguments):
        source, target = (source_of(context, builder, signature, arguments, position) for position in (1, 2))
        with cgutils.if_unlikely(builder, builder.icmp_unsigned("!=", source.data, target.data)):
            (count,), itemsize = cgutils.unpack_tuple(builder, target.shape, 1), itemsize_of(context, types, y)
            cgutils.raw_memmove(builder, target.data, source.data, count, itemsize)
        return arguments[2]

    return y(c, z, y), generate


class _Rows:
    """Loops over rows, LANES numbers at a time, which join what they make of them lane by lane, and in the end the
    upper half of the lanes to the lower until one is left. What a row gives does not depend on the number of rows."""

    def __init__(self, builder: Any, dtype: Any, join: Join, neutral: float) -> None:
        self.builder, self.emit, self.join = builder, Emitter(builder, dtype.bitwidth, LANES), join
        self.neutral = ir.Constant(self.emit.vector, [ir.Constant(self.emit.scalar, neutral)] * LANES)

    def lanes(self, row: Any, count: Any, made: Made = lambda numbers, mask, offset: numbers) -> Any:
        """What a row of so many numbers from address `row` on gives, lane by lane: made(numbers, mask, offset) of the
        numbers that lie `offset` bytes on, as far as the mask has them."""
        builder, emit = self.builder, self.emit
        total = cgutils.alloca_once_value(builder, self.neutral)
        with cgutils.for_range_slice(builder, int64(0), count, int64(LANES)) as (start, _):
            offset = builder.mul(start, int64(emit.size))
            mask = emit.mask(builder.sub(count, start))
            found = made(emit.load(builder.add(row, offset), mask), mask, offset)
            builder.store(self.join(builder.load(total), builder.select(mask, found, self.neutral)), total)
        return builder.load(total)

    def joined(self, lanes: Any) -> Any:
        """One number of a row's lanes."""
        half = LANES // 2
        while half:
            lower, upper = (self.emit.shuffle(lanes, lanes, list(range(k, k + half))) for k in (0, half))
            lanes, half = self.join(lower, upper), half // 2
        return self.builder.extract_element(lanes, int32(0))

    def joined_each(self, rows: Any, lanes_of: Callable[[Any], Any], target: Any) -> None:
        """One number of each row's lanes, to address `target` on, LANES rows at a time, which share the vectors that
        become shorter: row by row they would be eight instructions for each, and wait for one another. Lanes of rows
        that are missing have no meaning, and are not stored."""
        builder, emit = self.builder, self.emit
        room = cgutils.alloca_once(builder, ir.ArrayType(emit.vector, LANES))
        with cgutils.for_range_slice(builder, int64(0), rows, int64(LANES)) as (first, _):
            left = builder.sub(rows, first)
            few = builder.icmp_signed("<", left, int64(LANES))
            with cgutils.for_range(builder, builder.select(few, left, int64(LANES))) as loop:
                builder.store(lanes_of(builder.add(first, loop.index)), builder.gep(room, [int64(0), loop.index]))
            vectors = [builder.load(builder.gep(room, [int64(0), int64(k)])) for k in range(LANES)]
            half = LANES // 2
            while half:
                starts = range(0, 2 * LANES, 2 * half)
                lower, upper = ([k + j for k in starts for j in range(side, side + half)] for side in (0, half))
                pairs = zip(vectors[::2], vectors[1::2], strict=True)
                vectors = [self.join(emit.shuffle(a, b, lower), emit.shuffle(a, b, upper)) for a, b in pairs]
                half //= 2
            emit.store(vectors[0], builder.add(target, builder.mul(first, int64(emit.size))), emit.mask(left))


class _Operand:
    """An array among the arguments: where it lies, and how long it is."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: list[Any], position: int) -> None:
        source, dimensions = source_of(context, builder, signature, arguments, position), signature.args[position].ndim
        self.builder, self.start = builder, builder.ptrtoint(source.data, int64)
        self.shape = cgutils.unpack_tuple(builder, source.shape, dimensions)
        self.stride = cgutils.unpack_tuple(builder, source.strides, dimensions)[0]

    def at(self, i: Any) -> Any:
        return self.builder.add(self.start, self.builder.mul(i, self.stride))


def _sums(builder: Any, dtype: Any) -> _Rows:
    return _Rows(builder, dtype, builder.fadd, 0.0)


def _greatest(builder: Any, dtype: Any) -> _Rows:
    return _Rows(builder, dtype, lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b), -math.inf)


def _exponentials(loops: _Rows, dtype: Any, greatest: Any, target: Any) -> Made:
    """Of numbers less the greatest; they are written from address `target` on."""
    builder, emit, form, spread = loops.builder, loops.emit, FORMATS[dtype], loops.emit.spread(greatest)

    def made(numbers: Any, mask: Any, offset: Any) -> Any:
        found = exp(Number(builder, form, builder.fsub(numbers, spread))).value
        emit.store(found, builder.add(target, offset), mask)
        return found

    return made


@intrinsic
def stretch_sum(typing_context, c, a):
    def generate(context, builder, signature, arguments):
        loops, row = _sums(builder, a.dtype), _Operand(context, builder, signature, arguments, 1)
        return loops.joined(loops.lanes(row.start, row.shape[0]))

    return a.dtype(c, a), generate


@intrinsic
def stretch_max(typing_context, c, a):
    def generate(context, builder, signature, arguments):
        loops, row = _greatest(builder, a.dtype), _Operand(context, builder, signature, arguments, 1)
        return loops.joined(loops.lanes(row.start, row.shape[0]))

    return a.dtype(c, a), generate


@intrinsic
def stretch_exp(typing_context, c, z, m, y):
    def generate(context, builder, signature, arguments):
        loops = _sums(builder, z.dtype)
        row, target = (_Operand(context, builder, signature, arguments, position) for position in (1, 3))
        made = _exponentials(loops, z.dtype, arguments[2], target.start)
        return loops.joined(loops.lanes(row.start, row.shape[0], made))

    return z.dtype(c, z, m, y), generate


@intrinsic
def rows_max(typing_context, c, a, m):
    def generate(context, builder, signature, arguments):
        loops = _greatest(builder, a.dtype)
        source, target = (_Operand(context, builder, signature, arguments, position) for position in (1, 2))
        rows, columns = source.shape
        loops.joined_each(rows, lambda i: loops.lanes(source.at(i), columns), target.start)
        return context.get_dummy_value()

    return types.void(c, a, m), generate


@intrinsic
def rows_exp(typing_context, c, z, m, y, s):
    def generate(context, builder, signature, arguments):
        loops = _sums(builder, z.dtype)
        source, greatest, target, sums = (_Operand(context, builder, signature, arguments, k) for k in (1, 2, 3, 4))
        rows, columns = source.shape

        def lanes_of(i):
            made = _exponentials(loops, z.dtype, loops.emit.load_number(greatest.at(i)), target.at(i))
            return loops.lanes(source.at(i), columns, made)

        loops.joined_each(rows, lanes_of, sums.start)
        return context.get_dummy_value()

    return types.void(c, z, m, y, s), generate


ABREAST = 4  # vectors of sums: each waits for its last addition before it begins the next


@intrinsic
def add_rows(typing_context, c, a, y):
    """Row after row, by columns of ABREAST vectors whose sums stay in registers."""

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder, a.dtype.bitwidth, LANES)
        source, target = (source_of(context, builder, signature, arguments, position) for position in (1, 2))
        start, end = (builder.ptrtoint(array.data, int64) for array in (source, target))
        stride, _ = cgutils.unpack_tuple(builder, source.strides, 2)
        rows, columns = cgutils.unpack_tuple(builder, source.shape, 2)
        step = rows.type(ABREAST * LANES)
        with cgutils.for_range_slice(builder, rows.type(0), columns, step) as (column, _):
            left, offset = builder.sub(columns, column), builder.mul(column, int64(emit.size))
            masks = [emit.mask(builder.sub(left, int64(LANES * number))) for number in range(ABREAST)]
            sums = [cgutils.alloca_once(builder, emit.vector) for _ in masks]
            for total in sums:
                builder.store(emit.zero, total)
            with cgutils.for_range(builder, rows) as loop:
                line = builder.add(builder.add(start, offset), builder.mul(loop.index, stride))
                for number, (mask, total) in enumerate(zip(masks, sums, strict=True)):
                    numbers = emit.load(emit.vectors_on(line, number), mask)
                    builder.store(builder.fadd(builder.load(total), numbers), total)
            for number, (mask, total) in enumerate(zip(masks, sums, strict=True)):
                emit.store(builder.load(total), emit.vectors_on(builder.add(end, offset), number), mask)
        return context.get_dummy_value()

    return types.void(c, a, y), generate
