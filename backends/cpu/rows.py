"""The words over a row. LLVM may not change the order of a sum, and adds up one number after the other; so these words
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


class _Lanes:
    """A loop over a row, LANES numbers at a time, which joins what it makes of them lane by lane, and in the end the
    upper half of the lanes to the lower until one is left."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: list[Any], position: int) -> None:
        self.builder, self.dtype = builder, signature.args[position].dtype
        self.emit = Emitter(builder, self.dtype.bitwidth, LANES)
        source = source_of(context, builder, signature, arguments, position)
        self.address = builder.ptrtoint(source.data, int64)
        (self.count,) = cgutils.unpack_tuple(builder, source.shape, 1)

    def joined(self, made: Callable[[Any, Any, Any], Any], join: Callable[[Any, Any], Any], neutral: float) -> Any:
        """made(numbers, mask, offset): of the numbers that lie `offset` bytes on, as far as the mask has them."""
        builder, emit = self.builder, self.emit
        ends = ir.Constant(emit.vector, [ir.Constant(emit.scalar, neutral)] * LANES)
        total = cgutils.alloca_once_value(builder, ends)
        with cgutils.for_range_slice(builder, self.count.type(0), self.count, self.count.type(LANES)) as (start, _):
            offset = builder.mul(start, self.count.type(emit.size))
            mask = emit.mask(builder.sub(self.count, start))
            found = made(emit.load(builder.add(self.address, offset), mask), mask, offset)
            builder.store(join(builder.load(total), builder.select(mask, found, ends)), total)
        lanes, half = builder.load(total), LANES // 2
        while half:
            lower, upper = (emit.shuffle(lanes, lanes, list(range(first, first + half))) for first in (0, half))
            lanes, half = join(lower, upper), half // 2
        return builder.extract_element(lanes, int32(0))


@intrinsic
def stretch_sum(typing_context, c, a):
    def generate(context, builder, signature, arguments):
        lanes = _Lanes(context, builder, signature, arguments, 1)
        return lanes.joined(lambda numbers, mask, offset: numbers, builder.fadd, 0.0)

    return a.dtype(c, a), generate


@intrinsic
def stretch_max(typing_context, c, a):
    def generate(context, builder, signature, arguments):
        def greater(a, b):
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        lanes = _Lanes(context, builder, signature, arguments, 1)
        return lanes.joined(lambda numbers, mask, offset: numbers, greater, -math.inf)

    return a.dtype(c, a), generate


@intrinsic
def stretch_exp(typing_context, c, z, m, y):
    def generate(context, builder, signature, arguments):
        lanes = _Lanes(context, builder, signature, arguments, 1)
        form, emit = FORMATS[lanes.dtype], lanes.emit
        target = builder.ptrtoint(source_of(context, builder, signature, arguments, 3).data, int64)
        greatest = emit.spread(arguments[2])

        def made(numbers, mask, offset):
            found = exp(Number(builder, form, builder.fsub(numbers, greatest))).value
            emit.store(found, builder.add(target, offset), mask)
            return found

        return lanes.joined(made, builder.fadd, 0.0)

    return z.dtype(c, z, m, y), generate


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
