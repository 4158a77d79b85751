"""The product of a tile on the processor: a register tile in the host's widest vectors, written as LLVM IR.

Its loop over the inner dimension keeps rows x vectors of sums in registers. Each turn loads the vectors of a row of
op(b), and multiplies them by a number of each row of op(a), spread over a vector; no sum is stored before the last
turn. The numbers of op(a) are read one by one, so both its forms run at the same speed. op(b) must have the columns of
a row side by side: where it has not, being transposed, or where its rows collide in the caches, the panel that the loop
is about to read is packed first. So it is where columns do not fill whole vectors, and the processor has no masks by
which to read and write a part of one.

A sum runs through the inner dimension in order, from 0, in blocks of INNER terms, which are then added up, the bias
with the first: an order that depends on the sizes alone. (The form of such a kernel is that of Goto and van de Geijn,
ACM TOMS 34, 2008.)

The product is compiled by itself, and called by its symbol, as a library's would be: within each entry LLVM would
optimize all of its forms anew, in 2 s. It gets the address of what it is told. Fifteen arguments would lie on the
stack, from where LLVM takes several at once as a vector, and a load that is wider than the stores before it waits for
all of them (2 % of 64-64-10, AMD EPYC).
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from fusedmlp.backends.cpu.caching import cached
from fusedmlp.backends.cpu.compiling import CALLED
from fusedmlp.backends.cpu.vectors import Emitter, int64
from fusedmlp.backends.views import source_of

INNER = 512  # terms of a block: a panel of them stays in the second-level cache beside the rows of a

# Rows that are multiples of this many bytes apart fall in few sets of a cache, and drive each other out. A program's
# are a line further apart (784-1024-1024-1024-10 gained 2 % by SGD and 4 % by Adam, AMD EPYC, 2 cores). Where a
# caller's are not, so many rows of z are worth packing op(b) (a weight gradient of 4096 columns gained a tenth).
COLLIDING, WORTH_PACKING = 4096, 64


@dataclass(frozen=True)
class RegisterTile:
    """rows x vectors of sums, of `bits` each: as many as the registers hold beside the vectors of a row of b and one of
    a. Its forms have fewer rows, for the lower edge, and fewer vectors."""

    rows: int
    vectors: int
    bits: int
    masks: bool = False  # whether some lanes of a vector are read and written as fast as all

    def lanes(self, bitwidth: int) -> int:
        return self.bits // bitwidth

    def columns(self, bitwidth: int) -> int:
        return self.vectors * self.lanes(bitwidth)

    @property
    def forms(self) -> tuple[int, ...]:
        return tuple(rows for rows in (8, 6, 4, 2, 1) if rows <= self.rows)


@cache
def register_tile() -> RegisterTile:
    """That of the processor for which Numba compiles."""
    features = set((numba.config.CPU_FEATURES or llvm.get_host_cpu_features().flatten()).split(","))
    if "+avx512f" in features:
        return RegisterTile(6, 4, 512, masks=True)  # of 32 registers
    if {"+avx2", "+fma"} <= features:
        return RegisterTile(6, 2, 256)  # of 16
    if "+neon" in features:
        return RegisterTile(6, 3, 128)  # of 32
    return RegisterTile(4, 2, 128)  # of 16, where a product needs one more on its way to a sum


def room(dtype: np.dtype) -> int:
    """How many elements of scratch a product takes: a packed panel, and without masks a register tile at the right
    edge."""
    tile = register_tile()
    return (INNER + (0 if tile.masks else tile.rows)) * tile.columns(8 * dtype.itemsize)


# The intrinsics take a number `like` those that they work on, and else sizes, and addresses and strides in bytes.


def _emitter(builder: Any, like: Any) -> Emitter:
    return Emitter(builder, like.bitwidth, register_tile().lanes(like.bitwidth))


@intrinsic
def geometry(typing_context, like):
    """(rows and columns of a register tile, lanes of a vector, bytes of a number, 1 where it has masks)."""
    tile = register_tile()
    numbers = tile.rows, tile.columns(like.bitwidth), tile.lanes(like.bitwidth), like.bitwidth // 8, int(tile.masks)

    def generate(context, builder, signature, arguments):
        return context.make_tuple(builder, signature.return_type, [int64(number) for number in numbers])

    return types.UniTuple(types.int64, len(numbers))(like), generate


@intrinsic
def multiply(typing_context, like, rows, columns, a, a_row, a_step, b, b_step, z, z_row, inner, more, more_row, adding):
    """z = op(a) op(b) for a register tile of that form: row i and term k of op(a) are at a + i a_row + k a_step, a row
    of op(b) at b + k b_step, one of z at z + i z_row. With `adding`, what is at more + i more_row is added to it.
    Where the tile has no masks, all of a vector is read and written, whether or not the columns fill it."""

    def generate(context, builder, signature, arguments):
        tile, rows, columns = register_tile(), arguments[1], arguments[2]
        emit, end = _emitter(builder, like), builder.append_basic_block("end")
        vectors = builder.sdiv(builder.add(columns, int64(emit.lanes - 1)), int64(emit.lanes))
        form_of = builder.switch(builder.add(builder.mul(rows, int64(16)), vectors), end)
        for form in tile.forms:
            for count in range(1, tile.vectors + 1):
                block = builder.append_basic_block(f"form.{form}.{count}")
                form_of.add_case(int64(16 * form + count), block)
                builder.position_at_end(block)
                _multiply(emit, tile, form, count, arguments[2:])
                builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(like, *(types.int64,) * 12, types.boolean), generate


def _multiply(emit: Emitter, tile: RegisterTile, rows: int, vectors: int, arguments: list[Any]) -> None:
    columns, a, a_row, a_step, b, b_step, z, z_row, inner, more, more_row, adding = arguments
    builder, grid = emit.builder, [(row, vector) for row in range(rows) for vector in range(vectors)]
    before_last = (vectors - 1) * emit.lanes
    masks = [None] * (vectors - 1) + [emit.mask(builder.sub(columns, int64(before_last))) if tile.masks else None]

    def load(line: Any, vector: int) -> Any:
        return emit.load(emit.vectors_on(line, vector), masks[vector])

    def store(total: Any, row: int, vector: int) -> None:
        emit.store(total, emit.vectors_on(emit.rows_on(z, z_row, row), vector), masks[vector])

    # Else LLVM makes the addresses of all forms before the first tile, and keeps them on the stack.
    a_row, z_row, more_row = (emit.unmoved(stride) for stride in (a_row, z_row, more_row))
    rows_of_a = [builder.mul(a_row, int64(row)) for row in range(rows)]
    before, turn, after = builder.block, builder.append_basic_block("turn"), builder.append_basic_block("after")
    builder.cbranch(builder.icmp_signed(">", inner, int64(0)), turn, after)

    builder.position_at_end(turn)
    left, a_now, b_now = (builder.phi(int64) for _ in range(3))
    sums = {place: builder.phi(emit.vector) for place in grid}
    across = [load(b_now, vector) for vector in range(vectors)]
    down = [emit.spread(emit.load_number(builder.add(a_now, offset))) for offset in rows_of_a]
    added = {(row, vector): emit.multiply_add(down[row], across[vector], sums[row, vector]) for row, vector in grid}
    fewer = builder.sub(left, int64(1))
    loop = [(left, inner, fewer), (a_now, a, builder.add(a_now, a_step)), (b_now, b, builder.add(b_now, b_step))]
    for phi, first, following in [*loop, *((sums[place], emit.zero, added[place]) for place in grid)]:
        phi.add_incoming(first, before)
        phi.add_incoming(following, turn)
    builder.cbranch(builder.icmp_signed(">", fewer, int64(0)), turn, after)

    builder.position_at_end(after)
    totals = {place: builder.phi(emit.vector) for place in grid}  # all of them before anything else in their block
    for place, total in totals.items():
        total.add_incoming(emit.zero, before)
        total.add_incoming(added[place], turn)
    with builder.if_else(adding) as (with_more, alone):
        with with_more:
            for (row, vector), total in totals.items():
                store(builder.fadd(total, load(emit.rows_on(more, more_row, row), vector)), row, vector)
        with alone:
            for (row, vector), total in totals.items():
                store(total, row, vector)


def _transposing(masked: bool) -> Any:
    @intrinsic
    def transpose(typing_context, like, source, source_row, last, terms, target, target_row):
        """A square block, as wide and as high as a vector has lanes, becomes its transpose. Its rows after row `last`
        do not exist, and are taken to be that one; nor do, where it is masked, its columns from `terms` on."""

        def generate(context, builder, signature, arguments):
            emit = _emitter(builder, like)
            _, source, source_row, last, terms, target, target_row = arguments
            mask = emit.mask(terms) if masked else None
            lines = []
            for row in range(emit.lanes):
                there = builder.select(builder.icmp_signed("<", int64(row), last), int64(row), last)
                lines.append(emit.load(builder.add(source, builder.mul(there, source_row)), mask))
            half = emit.lanes // 2
            while half:  # in each square of 2 half, the upper right and the lower left quarter change places
                squares = range(0, emit.lanes, 2 * half)
                left = [square + side + k for square in squares for side in (0, emit.lanes) for k in range(half)]
                right = [half + k for k in left]
                for row in (square + k for square in squares for k in range(half)):
                    upper, lower = lines[row], lines[row + half]
                    lines[row], lines[row + half] = emit.shuffle(upper, lower, left), emit.shuffle(upper, lower, right)
                half //= 2
            for row, line in enumerate(lines):
                emit.store(line, emit.rows_on(target, target_row, row))
            return context.get_dummy_value()

        return types.void(like, *(types.int64,) * 6), generate

    return transpose


transpose, transpose_masked = _transposing(False), _transposing(True)


@intrinsic
def move_vector(typing_context, like, source, target):
    def generate(context, builder, signature, arguments):
        emit = _emitter(builder, like)
        emit.store(emit.load(arguments[1]), arguments[2])
        return context.get_dummy_value()

    return types.void(like, types.int64, types.int64), generate


@intrinsic
def move_masked(typing_context, like, source, target, count, more, adding):
    """The first `count` numbers of a vector, or all; with `adding`, those at `more` are added, which are read in any
    case."""

    def generate(context, builder, signature, arguments):
        emit, (_, source, target, count, more, adding) = _emitter(builder, like), arguments
        mask = emit.mask(count)
        moved = emit.load(source, mask)
        summed = builder.fadd(moved, emit.load(more, mask))
        emit.store(builder.select(adding, summed, moved), target, mask)
        return context.get_dummy_value()

    return types.void(like, *(types.int64,) * 4, types.boolean), generate


@njit(**CALLED)
def pack(like, b, b_row, transposed, terms, columns, panel):
    """So many terms and columns of op(b), from address b on, side by side in the panel. Its rows have room for whole
    vectors, and where b is transposed its columns too; what lies there has no meaning."""
    _, _, lanes, size, _ = geometry(like)
    panel_row = (columns + lanes - 1) // lanes * lanes * size
    if transposed:
        whole = terms // lanes * lanes
        for j in range(0, columns, lanes):
            width = min(lanes, columns - j)
            for k in range(0, whole, lanes):
                source, target = b + j * b_row + k * size, panel + k * panel_row + j * size
                transpose(like, source, b_row, width - 1, lanes, target, panel_row)
            if whole < terms:
                source, target = b + j * b_row + whole * size, panel + whole * panel_row + j * size
                transpose_masked(like, source, b_row, width - 1, terms - whole, target, panel_row)
    else:
        whole = columns // lanes * lanes
        for k in range(terms):
            source, target = b + k * b_row, panel + k * panel_row
            for j in range(0, whole, lanes):
                move_vector(like, source + j * size, target + j * size)
            if whole < columns:
                rest, place = source + whole * size, target + whole * size
                move_masked(like, rest, place, columns - whole, rest, False)


@intrinsic
def triple(typing_context, address, number):
    """Of the triples of int64 from that address on."""

    def generate(context, builder, signature, arguments):
        address, number = arguments
        first = builder.inttoptr(builder.add(address, builder.mul(number, int64(24))), ir.PointerType(int64))
        numbers = [builder.load(builder.gep(first, [int64(place)])) for place in range(3)]
        return context.make_tuple(builder, signature.return_type, numbers)

    return types.UniTuple(types.int64, 3)(types.int64, types.int64), generate


@njit(**CALLED)
def product(like, given):
    """z = op(a) op(b), or with `adding` + the matrix at `more`. Five triples from address `given` on say what: rows and
    columns of z, and terms of a sum; each matrix's address, and the bytes from row to row; flags, 0 or 1; and the
    address of scratch as `room` says."""
    rows, columns, inner = triple(given, 0)
    a, a_row, transpose_a = triple(given, 1)
    b, b_row, transpose_b = triple(given, 2)
    z, z_row, panel = triple(given, 3)
    more, more_row, adding = triple(given, 4)
    transpose_a, transpose_b, adding = transpose_a > 0, transpose_b > 0, adding > 0
    most_rows, most_columns, lanes, size, masks = geometry(like)
    a_step = size
    if transpose_a:
        a_row, a_step = size, a_row
    edge = panel + INNER * most_columns * size
    for first in range(0, max(inner, 1), INNER):
        terms = min(INNER, inner - first)
        if first > 0:
            more, more_row, adding = z, z_row, True
        for column in range(0, columns, most_columns):
            width = min(most_columns, columns - column)
            vectors = (width + lanes - 1) // lanes
            direct = masks > 0 or vectors * lanes == width  # no vector reaches beyond the columns
            if transpose_b:
                b_now, b_step = b + column * b_row + first * size, b_row
            else:
                b_now, b_step = b + first * b_row + column * size, b_row
            if transpose_b or not direct or (rows >= WORTH_PACKING and b_row % COLLIDING == 0):
                pack(like, b_now, b_row, transpose_b, terms, width, panel)
                b_now, b_step = panel, vectors * lanes * size
            done = 0
            while done < rows:
                form = form_for(rows - done, most_rows)
                a_now, z_now = a + done * a_row + first * a_step, z + done * z_row + column * size
                with_a, with_b, added = (a_now, a_row, a_step), (b_now, b_step), more + done * more_row + column * size
                if direct:
                    multiply(like, form, width, *with_a, *with_b, z_now, z_row, terms, added, more_row, adding)
                else:
                    multiply(like, form, width, *with_a, *with_b, edge, b_step, terms, edge, b_step, False)
                    for i in range(form):
                        for j in range(0, width, lanes):
                            source, target = edge + i * b_step + j * size, z_now + i * z_row + j * size
                            move_masked(like, source, target, width - j, added + i * more_row + j * size, adding)
                done += form


@njit(**CALLED)
def form_for(rows, most):
    """The rows of the highest form that so many rows fill."""
    if rows >= most:
        return most
    if rows >= 4:
        return 6 if rows >= 6 else 4
    return 2 if rows >= 2 else 1


# Nothing of these may be a closure, which is compiled anew in each process.


def _of_float32(given):
    product(np.float32(0), given)


def _of_float64(given):
    product(np.float64(0), given)


_FUNCTIONS = {"float32": _of_float32, "float64": _of_float64}


@cache
def load(name: str, digest: str) -> Any:
    """Compiles the product of the dtype of that name, or finds it on disk under the digest of all sources, and gives
    LLVM its address by its symbol. An address compiled in as a number would defeat the cache."""
    function = _FUNCTIONS[name]
    function.__qualname__ = f"{function.__name__}.{digest}"
    compiled = cached(lambda cache: cfunc(types.void(types.int64), cache=cache, error_model="numpy")(function))
    llvm.add_symbol(_symbol(name), compiled.address)
    return compiled


def _symbol(name: str) -> str:
    return f"fusedmlp_product_{name}"


@intrinsic
def matmul_tile(typing_context, c, a, transpose_a, b, transpose_b, z, accumulate, bias):
    """The word. What is added is z itself, or the bias as each row. Its scratch is at the end of the context's fourth
    member."""
    dtype = z.dtype

    def generate(context, builder, signature, arguments):
        def lying(array):
            """Its address, and the bytes from row to row."""
            stride, _ = cgutils.unpack_tuple(builder, array.strides, 2)
            return [builder.ptrtoint(array.data, int64), stride]

        def flag(position):
            return builder.zext(arguments[position], int64)

        a, b, z = (source_of(context, builder, signature, arguments, position) for position in (1, 3, 5))
        rows, columns = cgutils.unpack_tuple(builder, z.shape, 2)
        inner = builder.select(arguments[2], *cgutils.unpack_tuple(builder, a.shape, 2))
        of_scratch = context.make_array(signature.args[0].types[3])
        scratch = of_scratch(context, builder, builder.extract_value(arguments[0], 3))
        (length,) = cgutils.unpack_tuple(builder, scratch.shape, 1)
        start = builder.sub(length, int64(room(np.dtype(dtype.name))))
        panel = builder.ptrtoint(builder.gep(scratch.data, [start]), int64)
        bias = source_of(context, builder, signature, arguments, 7)
        (terms,) = cgutils.unpack_tuple(builder, bias.shape, 1)
        biased = builder.icmp_signed(">", terms, terms.type(0))
        of_bias = builder.ptrtoint(bias.data, int64), int64(0)
        more = [builder.select(biased, one, other) for one, other in zip(of_bias, lying(z), strict=True)]
        adding = builder.zext(builder.or_(biased, arguments[6]), int64)
        matrices = *lying(a), flag(2), *lying(b), flag(4), *lying(z), panel, *more, adding
        given = cgutils.pack_array(builder, [rows, columns, inner, *matrices])
        kind = ir.FunctionType(ir.VoidType(), [int64])
        called = cgutils.get_or_insert_function(builder.module, kind, _symbol(dtype.name))
        builder.call(called, [builder.ptrtoint(cgutils.alloca_once_value(builder, given), int64)])
        return context.get_dummy_value()

    return types.void(c, a, types.boolean, b, types.boolean, z, types.boolean, bias), generate
