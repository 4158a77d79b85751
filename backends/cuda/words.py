"""The vocabulary on CUDA: a worker is a block, its lanes are the block's threads, laid over a tile as the block's
two dimensions. Every thread knows who it is; the context is an array of the words by which blocks stop.

The words are made for one dtype and one size of tile at a time, since shared memory is declared with its type and
its length. A `Device` says how they are compiled, or that they run as they stand.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cuda

from fusedmlp.backends.cuda.home import words_at_home, words_in_the_buffer
from fusedmlp.backends.cuda.kinds import Kind, Shape
from fusedmlp.kernels.summation import STRETCH

# The context: the reason to stop that a block asked for, and the step of the call that is not to be finished then.
# ROOM: how many elements of a block's shared memory may be home to weights.
REQUEST, UNFINISHED, ROOM = 0, 1, 2
SYNC_LENGTH = 3


@dataclass(frozen=True)
class Device:
    """How words become a device's.

    compile  compile(function, thin): a thin one becomes part of its caller, which a function that gives an array of
             its own must
    shared   shared(name, length, dtype): a function whose result is the block's array of that name in shared memory
    dynamic  dynamic(name, dtype): the same, of as much shared memory as the launch asks for
    thread   a thread's x and y in its block, as functions
    views    the words that are no functions of the device's: views of memory, and mathematics
    """

    compile: Callable[[Any, bool], Any]
    shared: Callable[[str, int, Any], Callable[[], Any]]
    dynamic: Callable[[str, Any], Callable[[], Any]]
    thread: tuple[Callable[[], Any], Callable[[], Any]]
    views: dict[str, Callable[..., Any]]


def thread_x():
    return cuda.threadIdx.x


def thread_y():
    return cuda.threadIdx.y


def words_for(kind: Kind, device: Device) -> dict[str, Any]:
    """Every word, for a kind of kernel; and `begin`, which a kernel calls first."""
    dtype, shape = kind.dtype.type, kind.shape
    matrix, exp, edge, thin = device.views["matrix"], device.views["exp"], shape.edge, True
    (across, down), lanes = shape.threads, shape.lanes
    x, y = device.thread
    tile = device.shared("tile", edge * edge, dtype)

    def worker(c):
        return cuda.blockIdx.x

    def workers(c):
        return cuda.gridDim.x

    def barrier(c):
        cuda.cg.this_grid().sync()
        return True

    def request_stop(c, reason, step):
        c[UNFINISHED] = step
        c[REQUEST] = reason

    def stopped(c):
        # All of a block leave, or none: a stop may be asked for while some of its threads look.
        return cuda.syncthreads_or(np.int32(c[REQUEST]))

    def lane(c):
        return x() + across * y()

    # Numbers, not blockDim: a loop with a step that the compiler does not know divides by it first.
    def lane_count(c):
        return lanes

    def lane_row(c):
        return y()

    def lane_rows(c):
        return down

    def lane_column(c):
        return x()

    def lane_columns(c):
        return across

    def sync_lanes(c):
        cuda.syncthreads()

    def stretch_sum(c, a):
        total = dtype(0)
        for j in range(x() + across * y(), a.shape[0], lanes):
            total += a[j]
        return total

    def stretch_exp(c, z, m, y_row):
        total = dtype(0)
        for j in range(x() + across * y(), z.shape[0], lanes):
            y_row[j] = exp(z[j] - m)
            total += y_row[j]
        return total

    def stretch_length(c):
        return STRETCH * lanes

    def stretch_max(c, a):
        m = a[0]
        for j in range(x() + across * y(), a.shape[0], lanes):
            m = m if m >= a[j] else a[j]
        return m

    def gapless(c, a):
        return False

    def lies_by_output(c, flag):
        return False  # nothing is packed here

    def in_place(c, z, y):
        return z

    def parts_of_lanes(kind):
        """The block's array of a number for each lane."""
        return device.shared(f"parts_{np.dtype(kind).name}", lanes, kind)

    def over_lanes(combine, kind):
        """The word that combines what so many lanes bring, in the order of a tree, which depends on their number alone:
        ten classes take 4 levels, and not the 8 of a whole block."""
        joined, parts_of_block = device.compile(combine, thin), parts_of_lanes(kind)

        def combined(c, part, count):
            parts = parts_of_block()
            k, width = x() + across * y(), min(count, lanes)
            cuda.syncthreads()
            parts[k] = part
            cuda.syncthreads()
            while width > 1:
                half = (width + 1) // 2
                if k < width - half:
                    parts[k] = joined(parts[k], parts[k + half])
                cuda.syncthreads()
                width = half
            return parts[0]

        return combined

    def total(a, b):
        return a + b

    def greatest(a, b):
        return a if a >= b else b

    row_sum, row_max = over_lanes(total, dtype), over_lanes(greatest, dtype)
    sum_of_row, max_of_row = (device.compile(combined, False) for combined in (row_sum, row_max))
    exp_of_lane, max_of_lane = (device.compile(made, thin) for made in (stretch_exp, stretch_max))
    row = device.views["row"]

    # All lanes know what they write for a row, and it is the same.

    def rows_max(c, a, m):
        for i in range(a.shape[0]):
            m[i] = max_of_row(c, max_of_lane(c, row(a, i)), a.shape[1])
        cuda.syncthreads()

    def rows_exp(c, z, m, y_rows, s):
        for i in range(z.shape[0]):
            s[i] = sum_of_row(c, exp_of_lane(c, row(z, i), m[i], row(y_rows, i)), z.shape[1])
        cuda.syncthreads()

    parts_of_columns = parts_of_lanes(dtype)

    def add_rows(c, a, target):
        """As many columns at a time as lanes lie across a tile: each row of lanes adds up its rows of `a` in registers,
        and a tree joins the rows of lanes."""
        parts, k = parts_of_columns(), x() + across * y()
        for start in range(0, a.shape[1], across):
            j, part = start + x(), dtype(0)
            if j < a.shape[1]:
                for i in range(y(), a.shape[0], down):
                    part += a[i, j]
            cuda.syncthreads()
            parts[k] = part
            cuda.syncthreads()
            width = down
            while width > 1:
                half = (width + 1) // 2
                if y() < width - half:
                    parts[k] += parts[k + across * half]
                cuda.syncthreads()
                width = half
            if y() == 0 and j < a.shape[1]:
                target[j] = parts[k]
        cuda.syncthreads()

    def tile_extent(c):
        return edge

    def product_tile(c, target):
        return matrix(tile(), 0, target.shape[0], target.shape[1])

    def scratch(c, like, rows, columns):
        return matrix(tile(), 0, rows, columns)

    giving_arrays = {"in_place": in_place, "product_tile": product_tile, "scratch": scratch}
    plain = {
        "worker": worker,
        "workers": workers,
        "barrier": barrier,
        "request_stop": request_stop,
        "stopped": stopped,
        "lane": lane,
        "lanes": lane_count,
        "lane_row": lane_row,
        "lane_rows": lane_rows,
        "lane_column": lane_column,
        "lane_columns": lane_columns,
        "sync_lanes": sync_lanes,
        "gapless": gapless,
        "lies_by_output": lies_by_output,
        "stretch_sum": stretch_sum,
        "stretch_exp": stretch_exp,
        "stretch_length": stretch_length,
        "stretch_max": stretch_max,
        "row_sum": row_sum,
        "row_max": row_max,
        "rows_max": rows_max,
        "rows_exp": rows_exp,
        "double_sum": over_lanes(total, np.float64),
        "tile_rows": tile_extent,
        "tile_columns": tile_extent,
        "matmul_tile": staged_product(dtype, shape, device),
        "add_rows": add_rows,
    }
    words = {name: device.compile(function, False) for name, function in plain.items()}
    words |= {name: device.compile(function, thin) for name, function in giving_arrays.items()} | device.views
    return words | (words_at_home(words, ROOM, dtype, device) if kind.home else words_in_the_buffer(device))


def staged_product(dtype: Any, shape: Shape, device: Device) -> Any:
    """The word matmul_tile: `depth` columns of op(a) and rows of op(b) at a time lie in shared memory, where each is
    read by a whole row or column of threads; a thread's elements of the product stay in its registers. One sum runs
    through all of the inner dimension, so its order depends on nothing.

    A row of a staged panel is one longer than a tile, so that threads which write a column of it meet different banks.
    """
    edge, depth, (across, down) = shape.edge, shape.depth, shape.threads
    length, lanes = edge + 1, shape.lanes
    rows_each, columns_each = edge // down, edge // across
    panel_a, panel_b = (device.shared(name, depth * length, dtype) for name in ("panel_a", "panel_b"))
    matrix, (x, y) = device.views["matrix"], device.thread

    def stage(panel, a, along_rows, start, inner):
        """panel[k, e] = element e of the tile at inner position start + k, and 0 beyond the edges. Neighbouring threads
        read neighbours in memory: positions where `a` has them in its rows, elements otherwise."""
        extent = a.shape[0] if along_rows else a.shape[1]
        for number in range(x() + across * y(), depth * edge, lanes):
            e, k = (number // depth, number % depth) if along_rows else (number % edge, number // edge)
            value = dtype(0)
            if e < extent and start + k < inner:
                value = a[e, start + k] if along_rows else a[start + k, e]
            panel[k, e] = value

    stage = device.compile(stage, True)

    def matmul_tile(c, a, transpose_a, b, transpose_b, z, accumulate, bias):
        inner = a.shape[0] if transpose_a else a.shape[1]
        own_row, own_column = y(), x()
        left, right = matrix(panel_a(), 0, depth, length), matrix(panel_b(), 0, depth, length)
        sums = cuda.local.array((rows_each, columns_each), dtype)
        column = cuda.local.array(rows_each, dtype)
        for i in range(rows_each):
            for j in range(columns_each):
                sums[i, j] = dtype(0)
        for panel in range((inner + depth - 1) // depth):
            cuda.syncthreads()
            stage(left, a, not transpose_a, panel * depth, inner)
            stage(right, b, transpose_b, panel * depth, inner)
            cuda.syncthreads()
            for k in range(depth):
                for i in range(rows_each):
                    column[i] = left[k, own_row + i * down]
                for j in range(columns_each):
                    value = right[k, own_column + j * across]
                    for i in range(rows_each):
                        sums[i, j] += column[i] * value
        for i in range(rows_each):
            for j in range(columns_each):
                p, q = own_row + i * down, own_column + j * across
                if p < z.shape[0] and q < z.shape[1]:
                    total = sums[i, j] + bias[q] if bias.shape[0] > 0 else sums[i, j]
                    z[p, q] = z[p, q] + total if accumulate else total
        cuda.syncthreads()

    return matmul_tile


MATHEMATICS = {
    "exp": math.exp,
    "expm1": math.expm1,
    "log": math.log,
    "log1p": math.log1p,
    "tanh": math.tanh,
    "erf": math.erf,
    "sqrt": math.sqrt,
    "finite": math.isfinite,
    "double": np.float64,
}
