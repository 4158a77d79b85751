"""The vocabulary on the CPU. A worker is a thread, with one lane; the context is a tuple of the worker's number, the
number of workers, the words by which they meet (`sync`), and the worker's scratch.
"""

import math

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from fusedmlp.backends.cpu import mathematics
from fusedmlp.backends.cpu.compiling import CALLED
from fusedmlp.backends.cpu.machine import block, home, matrix, row, scratch, vector
from fusedmlp.backends.cpu.meeting import barrier, request_stop, stopped
from fusedmlp.backends.cpu.product import matmul_tile
from fusedmlp.backends.cpu.rows import (
    STRETCH_LENGTH,
    add_rows,
    gapless,
    in_place,
    rows_exp,
    rows_max,
    stretch_exp,
    stretch_max,
    stretch_sum,
)
from fusedmlp.backends.views import constant_of

# A tile's product is collected in place and its weight gradient in scratch of 192 KiB (float32): both stay in a
# second-level cache of 1 MiB beside the operands. Whole register tiles on each kind of processor. 128 x 512 took a
# twentieth longer for 784-1024-1024-1024-10, 512 x 96 as long (AMD EPYC, one core).
TILE_ROWS = 256
TILE_COLUMNS = 192
TILE = TILE_ROWS * TILE_COLUMNS


def constant(number):
    """A word that is always `number`."""

    @intrinsic
    def word(typing_context, c):
        def generate(context, builder, signature, arguments):
            return context.get_constant(types.int64, number)

        return types.int64(c), generate

    return word


def member(position):
    """A word that is one of the members of the context."""

    @intrinsic
    def word(typing_context, c):
        def generate(context, builder, signature, arguments):
            return builder.extract_value(arguments[0], position)

        return types.int64(c), generate

    return word


const = constant_of(intrinsic, types)


@njit(**CALLED)
def stay(c, buffer, at, columns, first_row, last_row, first_column, last_column):
    """Home is the buffer: what a worker alone touches stays in its core's cache."""


@intrinsic
def sync_lanes(typing_context, c):
    return types.void(c), lambda context, builder, signature, arguments: context.get_dummy_value()


@intrinsic
def lies_by_output(typing_context, c, flag):
    def generate(context, builder, signature, arguments):
        return builder.icmp_signed(">", arguments[1], arguments[1].type(0))

    return types.boolean(c, flag), generate


@intrinsic
def product_tile(typing_context, c, target):
    """The tile of the target itself: it is in cache."""
    return target(c, target), lambda context, builder, signature, arguments: arguments[1]


@intrinsic
def only_part(typing_context, c, part, count):
    """One lane brings the whole."""
    return part(c, part, count), lambda context, builder, signature, arguments: arguments[1]


WORDS = {
    "const": const,
    **mathematics.WORDS,
    "sqrt": math.sqrt,
    "finite": math.isfinite,
    "double": np.float64,
    "worker": member(0),
    "workers": member(1),
    "barrier": barrier,
    "request_stop": request_stop,
    "stopped": stopped,
    "lane": constant(0),
    "lanes": constant(1),
    "lane_row": constant(0),
    "lane_rows": constant(1),
    "lane_column": constant(0),
    "lane_columns": constant(1),
    "sync_lanes": sync_lanes,
    "stretch_sum": stretch_sum,
    "stretch_length": constant(STRETCH_LENGTH),
    "stretch_exp": stretch_exp,
    "stretch_max": stretch_max,
    "rows_exp": rows_exp,
    "rows_max": rows_max,
    "row_sum": only_part,
    "row_max": only_part,
    "double_sum": only_part,
    "matrix": matrix,
    "vector": vector,
    "home": home,
    "move_in": stay,
    "move_out": stay,
    "block": block,
    "row": row,
    "gapless": gapless,
    "lies_by_output": lies_by_output,
    "in_place": in_place,
    "tile_rows": constant(TILE_ROWS),
    "tile_columns": constant(TILE_COLUMNS),
    "product_tile": product_tile,
    "scratch": scratch,
    "matmul_tile": matmul_tile,
    "add_rows": add_rows,
}
